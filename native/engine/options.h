#pragma once

#include <deque>
#include <functional>
#include <initializer_list>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <napi.h>

#include "image.h"

// What the pointers in a parameter struct of the library point at. Elements never move, so a pointer stays valid for
// as long as the storage does, also when the storage itself is moved.
class Storage {
 public:
  const char* Keep(std::string text) { return texts_.emplace_back(std::move(text)).c_str(); }
  std::vector<float>& Keep(std::vector<float> numbers) { return floats_.emplace_back(std::move(numbers)); }
  std::vector<int>& Keep(std::vector<int> numbers) { return ints_.emplace_back(std::move(numbers)); }
  Image& Keep(Image image) { return images_.emplace_back(std::move(image)); }

  Storage() = default;
  Storage(Storage&&) = default;
  Storage& operator=(Storage&&) = default;
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;

 private:
  std::deque<std::string> texts_;
  std::deque<std::vector<float>> floats_;
  std::deque<std::vector<int>> ints_;
  std::deque<Image> images_;
};

// Reads a JavaScript object into the members of a C struct. Main thread only: afterwards the struct and its storage
// are all that is left, and any thread may have them.
//
// A key that is absent or undefined leaves the member as it is, that is, at the library's own default. Everything that
// is not as expected throws Failure: "Expected an integer from 1 to 1000 for steps but received 0."
class Options {
 public:
  // `where` goes before the keys in messages, for example "hires.".
  Options(Napi::Object object, Storage& storage, std::string where = "");

  // False for a key that is absent or undefined.
  bool Has(const char* key);

  void Text(const char* key, const char*& target, size_t max_length = 4096);
  void Flag(const char* key, bool& target);
  void Number(const char* key, float& target, double min, double max);
  void Numbers(const char* key, float*& target, int& count, size_t min_count, size_t max_count, double min, double max);
  void Integers(const char* key, int*& target, size_t& count, size_t max_count, int min, int max);
  // { width, height, channels, data }, copied.
  void Picture(const char* key, sd_image_t& target, uint32_t channels);
  void Pictures(const char* key, sd_image_t*& target, int& count, size_t max_count, std::vector<sd_image_t>& views);

  template <typename Integer>
  void Whole(const char* key, Integer& target, double min, double max) {
    if (Has(key)) target = static_cast<Integer>(Whole(key, min, max));
  }

  // One of `words`: sets its position and returns true.
  bool Choice(const char* key, size_t& position, const std::vector<std::string>& words);
  // One of the words that `name` gives for the values from 0 up to, not including, `count`.
  template <typename Enum>
  void Choice(const char* key, Enum& target, int count, const char* (*name)(Enum)) {
    std::vector<std::string> words;
    for (int value = 0; value < count; value++) words.emplace_back(name(static_cast<Enum>(value)));
    size_t position;
    if (Choice(key, position, words)) target = static_cast<Enum>(position);
  }
  // The same where the library has no function that names the values.
  template <typename Enum>
  void Choice(const char* key, Enum& target, std::initializer_list<std::pair<const char*, Enum>> choices) {
    std::vector<std::string> words;
    for (const auto& choice : choices) words.emplace_back(choice.first);
    size_t position;
    if (Choice(key, position, words)) target = (choices.begin() + position)->second;
  }

  // Calls `read` with the object under `key`, if there is one.
  void Nested(const char* key, const std::function<void(Options&)>& read);
  // Calls `read` with each object of the array under `key`.
  void List(const char* key, size_t max_count, const std::function<void(Options&)>& read);

  // Refuses what was never asked for. Call it when everything was read.
  void Finish();

  // Throws the message for a key whose value can't be used, or is missing.
  [[noreturn]] void Refuse(const std::string& key, const std::string& expected);

 private:
  [[noreturn]] void Refuse(const std::string& key, const std::string& expected, Napi::Value received);
  double Whole(const char* key, double min, double max);
  Napi::Array Elements(const char* key, size_t min_count, size_t max_count);
  Image ReadPicture(const std::string& key, Napi::Value value, uint32_t channels);

  Napi::Object object_;
  Storage& storage_;
  std::string where_;
  std::set<std::string> read_;
};
