#pragma once

#include <cstddef>
#include <memory>
#include <string.h>

// Overwrites memory in a way that the compiler may not leave out.
inline void Wipe(void* memory, std::size_t size) {
#ifdef __APPLE__
  memset_s(memory, size, 0, size);
#else
  explicit_bzero(memory, size);
#endif
}

// A buffer of fixed size that is zeroed on every path out of its scope. It never grows, because growing would leave
// a copy behind. One spare byte keeps it NUL-terminated.
class Secret {
 public:
  explicit Secret(std::size_t size) : size_(size), data_(new char[size + 1]()) {}
  ~Secret() {
    if (data_) Wipe(data_.get(), size_ + 1);
  }
  Secret(Secret&&) noexcept = default;  // moves the memory, so there is nothing left behind to wipe

  char* data() { return data_.get(); }
  const char* data() const { return data_.get(); }
  std::size_t size() const { return size_; }

 private:
  std::size_t size_;
  std::unique_ptr<char[]> data_;
};
