#pragma once

#include <cstdint>
#include <vector>

#include <napi.h>
#include <stable-diffusion.h>

// Rows of 8-bit samples from top to bottom without padding: 1 channel (grey), 3 (RGB) or 4 (RGBA). Owns its bytes.
struct Image {
  uint32_t width = 0;
  uint32_t height = 0;
  uint32_t channels = 0;
  std::vector<uint8_t> data;

  // Copies what the library gave.
  static Image From(const sd_image_t& image);

  // For the library to read; valid for as long as this image is.
  sd_image_t View();

  // { width, height, channels, data: Buffer }. Main thread only.
  Napi::Object ToObject(Napi::Env env) const;
};

// The images that a call of the library returned; gives them back to it.
class LibraryImages {
 public:
  LibraryImages() = default;
  ~LibraryImages();
  LibraryImages(const LibraryImages&) = delete;
  LibraryImages& operator=(const LibraryImages&) = delete;

  sd_image_t** out() { return &images_; }
  int* count_out() { return &count_; }

  // Throws Failure when there is none, or an empty one: the library has said "done" all the same.
  std::vector<Image> Copy() const;

 private:
  sd_image_t* images_ = nullptr;
  int count_ = 0;
};
