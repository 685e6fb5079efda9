#include "image.h"

#include "failure.h"

Image Image::From(const sd_image_t& image) {
  const size_t size = static_cast<size_t>(image.width) * image.height * image.channel;
  return {image.width, image.height, image.channel, std::vector<uint8_t>(image.data, image.data + size)};
}

sd_image_t Image::View() { return {width, height, channels, data.data()}; }

Napi::Object Image::ToObject(Napi::Env env) const {
  Napi::Object object = Napi::Object::New(env);
  object["width"] = Napi::Number::New(env, width);
  object["height"] = Napi::Number::New(env, height);
  object["channels"] = Napi::Number::New(env, channels);
  object["data"] = Napi::Buffer<uint8_t>::Copy(env, data.data(), data.size());
  return object;
}

LibraryImages::~LibraryImages() {
  if (images_ != nullptr) free_sd_images(images_, count_);
}

std::vector<Image> LibraryImages::Copy() const {
  std::vector<Image> copies;
  for (int index = 0; images_ != nullptr && index < count_; index++) {
    const sd_image_t& image = images_[index];
    if (image.data == nullptr || image.width == 0 || image.height == 0) {
      throw Failure(FailureCode::kGenerationFailed, "The library returned an empty image.");
    }
    copies.push_back(Image::From(image));
  }
  if (copies.empty()) throw Failure(FailureCode::kGenerationFailed, "The library reported success without an image.");
  return copies;
}
