#include "options.h"

#include <cmath>
#include <sstream>

#include "failure.h"

namespace {

// The longest side of a picture that is taken, in pixels: what fits in 32 bits with room to spare when it is scaled.
constexpr uint32_t kMaxSide = 16384;

// As JavaScript writes it, but for the last digits of fractions.
std::string Format(double number) {
  if (std::isnan(number)) return "NaN";
  if (std::isinf(number)) return number < 0 ? "-Infinity" : "Infinity";
  if (number == std::floor(number) && std::fabs(number) <= 9007199254740991.0) {
    return std::to_string(static_cast<long long>(number));
  }
  std::ostringstream text;
  text.precision(10);
  text << number;
  return text.str();
}

// A value as a person would write it, short enough for a message.
std::string Describe(Napi::Value value) {
  if (value.IsString()) {
    std::string text = value.As<Napi::String>().Utf8Value();
    for (char& byte : text) {
      if (static_cast<unsigned char>(byte) < ' ') byte = '?';
    }
    return "\"" + (text.size() > 60 ? text.substr(0, 57) + "..." : text) + "\"";
  }
  if (value.IsNumber()) return Format(value.As<Napi::Number>().DoubleValue());
  if (value.IsBoolean()) return value.As<Napi::Boolean>().Value() ? "true" : "false";
  if (value.IsNull()) return "null";
  if (value.IsArray()) return "an array of length " + Format(value.As<Napi::Array>().Length());
  if (value.IsObject()) return "an object";
  if (value.IsFunction()) return "a function";
  return value.IsUndefined() ? "undefined" : "a value of another type";
}

std::string Range(double min, double max) { return "from " + Format(min) + " to " + Format(max); }

}  // namespace

Options::Options(Napi::Object object, Storage& storage, std::string where)
    : object_(object), storage_(storage), where_(std::move(where)) {}

void Options::Refuse(const std::string& key, const std::string& expected) {
  Napi::Value received = object_.Get(key);
  if (!received.IsUndefined()) Refuse(key, expected, received);
  throw Failure(FailureCode::kInvalidParameters, "Expected " + expected + " for " + where_ + key + ".");
}

void Options::Refuse(const std::string& key, const std::string& expected, Napi::Value received) {
  throw Failure(FailureCode::kInvalidParameters,
                "Expected " + expected + " for " + where_ + key + " but received " + Describe(received) + ".");
}

bool Options::Has(const char* key) {
  read_.insert(key);
  return !object_.Get(key).IsUndefined();
}

void Options::Text(const char* key, const char*& target, size_t max_length) {
  if (!Has(key)) return;
  Napi::Value value = object_.Get(key);
  const std::string expected = "a text of at most " + std::to_string(max_length) + " bytes without a NUL";
  if (!value.IsString()) Refuse(key, expected, value);
  std::string text = value.As<Napi::String>().Utf8Value();
  if (text.size() > max_length || text.find('\0') != std::string::npos) Refuse(key, expected, value);
  target = storage_.Keep(std::move(text));
}

void Options::Flag(const char* key, bool& target) {
  if (!Has(key)) return;
  Napi::Value value = object_.Get(key);
  if (!value.IsBoolean()) Refuse(key, "true or false", value);
  target = value.As<Napi::Boolean>().Value();
}

void Options::Number(const char* key, float& target, double min, double max) {
  if (!Has(key)) return;
  Napi::Value value = object_.Get(key);
  const double number = value.IsNumber() ? value.As<Napi::Number>().DoubleValue() : NAN;
  if (!(number >= min && number <= max)) Refuse(key, "a number " + Range(min, max), value);
  target = static_cast<float>(number);
}

double Options::Whole(const char* key, double min, double max) {
  Napi::Value value = object_.Get(key);
  const double number = value.IsNumber() ? value.As<Napi::Number>().DoubleValue() : NAN;
  if (!(number >= min && number <= max) || number != std::floor(number)) {
    Refuse(key, "an integer " + Range(min, max), value);
  }
  return number;
}

bool Options::Choice(const char* key, size_t& position, const std::vector<std::string>& words) {
  if (!Has(key)) return false;
  Napi::Value value = object_.Get(key);
  const std::string word = value.IsString() ? value.As<Napi::String>().Utf8Value() : "";
  std::string all;
  for (position = 0; position < words.size(); position++) {
    if (value.IsString() && words[position] == word) return true;
    all += (position == 0 ? "" : ", ") + words[position];
  }
  Refuse(key, "one of " + all, value);
}

Napi::Array Options::Elements(const char* key, size_t min_count, size_t max_count) {
  Napi::Value value = object_.Get(key);
  if (!value.IsArray() || value.As<Napi::Array>().Length() < min_count ||
      value.As<Napi::Array>().Length() > max_count) {
    Refuse(key, "an array of " + std::to_string(min_count) + " to " + std::to_string(max_count) + " elements", value);
  }
  return value.As<Napi::Array>();
}

void Options::Numbers(const char* key, float*& target, int& count, size_t min_count, size_t max_count, double min,
                      double max) {
  if (!Has(key)) return;
  Napi::Array elements = Elements(key, min_count, max_count);
  std::vector<float> numbers;
  for (uint32_t index = 0; index < elements.Length(); index++) {
    Napi::Value value = elements.Get(index);
    const double number = value.IsNumber() ? value.As<Napi::Number>().DoubleValue() : NAN;
    if (!(number >= min && number <= max)) {
      Refuse(std::string(key) + "." + std::to_string(index), "a number " + Range(min, max), value);
    }
    numbers.push_back(static_cast<float>(number));
  }
  std::vector<float>& kept = storage_.Keep(std::move(numbers));
  target = kept.data();
  count = static_cast<int>(kept.size());
}

void Options::Integers(const char* key, int*& target, size_t& count, size_t max_count, int min, int max) {
  if (!Has(key)) return;
  Napi::Array elements = Elements(key, 0, max_count);
  std::vector<int> numbers;
  for (uint32_t index = 0; index < elements.Length(); index++) {
    Napi::Value value = elements.Get(index);
    const double number = value.IsNumber() ? value.As<Napi::Number>().DoubleValue() : NAN;
    if (!(number >= min && number <= max) || number != std::floor(number)) {
      Refuse(std::string(key) + "." + std::to_string(index), "an integer " + Range(min, max), value);
    }
    numbers.push_back(static_cast<int>(number));
  }
  std::vector<int>& kept = storage_.Keep(std::move(numbers));
  target = kept.data();
  count = kept.size();
}

Image Options::ReadPicture(const std::string& key, Napi::Value value, uint32_t channels) {
  const std::string expected = "a picture { width, height, channels: " + std::to_string(channels) + ", data: Buffer }";
  if (!value.IsObject() || !value.As<Napi::Object>().Get("data").IsBuffer()) Refuse(key, expected, value);
  Options picture(value.As<Napi::Object>(), storage_, where_ + key + ".");
  Image image;
  for (const char* side : {"width", "height", "channels"}) {
    if (!picture.Has(side)) picture.Refuse(side, "a number");
  }
  picture.Whole("width", image.width, 1, kMaxSide);
  picture.Whole("height", image.height, 1, kMaxSide);
  picture.Whole("channels", image.channels, channels, channels);
  picture.Has("data");
  picture.Finish();
  auto bytes = value.As<Napi::Object>().Get("data").As<Napi::Buffer<uint8_t>>();
  const size_t size = static_cast<size_t>(image.width) * image.height * channels;
  if (bytes.Length() != size) {
    Refuse(key + ".data", std::to_string(size) + " bytes (width × height × channels)",
           Napi::Number::New(value.Env(), static_cast<double>(bytes.Length())));
  }
  image.data.assign(bytes.Data(), bytes.Data() + size);
  return image;
}

void Options::Picture(const char* key, sd_image_t& target, uint32_t channels) {
  if (Has(key)) target = storage_.Keep(ReadPicture(key, object_.Get(key), channels)).View();
}

void Options::Pictures(const char* key, sd_image_t*& target, int& count, size_t max_count,
                       std::vector<sd_image_t>& views) {
  if (!Has(key)) return;
  Napi::Array elements = Elements(key, 1, max_count);
  views.clear();
  for (uint32_t index = 0; index < elements.Length(); index++) {
    const std::string name = std::string(key) + "." + std::to_string(index);
    views.push_back(storage_.Keep(ReadPicture(name, elements.Get(index), 3)).View());
  }
  target = views.data();
  count = static_cast<int>(views.size());
}

void Options::Nested(const char* key, const std::function<void(Options&)>& read) {
  if (!Has(key)) return;
  Napi::Value value = object_.Get(key);
  if (!value.IsObject() || value.IsArray()) Refuse(key, "an object", value);
  Options nested(value.As<Napi::Object>(), storage_, where_ + key + ".");
  read(nested);
  nested.Finish();
}

void Options::List(const char* key, size_t max_count, const std::function<void(Options&)>& read) {
  if (!Has(key)) return;
  Napi::Array elements = Elements(key, 0, max_count);
  for (uint32_t index = 0; index < elements.Length(); index++) {
    const std::string name = std::string(key) + "." + std::to_string(index);
    Napi::Value value = elements.Get(index);
    if (!value.IsObject() || value.IsArray()) Refuse(name, "an object", value);
    Options element(value.As<Napi::Object>(), storage_, where_ + name + ".");
    read(element);
    element.Finish();
  }
}

void Options::Finish() {
  Napi::Array keys = object_.GetPropertyNames();
  for (uint32_t index = 0; index < keys.Length(); index++) {
    const std::string key = keys.Get(index).As<Napi::String>().Utf8Value();
    if (read_.count(key) == 0 && !object_.Get(key).IsUndefined()) {
      throw Failure(FailureCode::kInvalidParameters, "There is no parameter " + where_ + key + ".");
    }
  }
}
