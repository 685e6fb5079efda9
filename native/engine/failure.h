#pragma once

#include <exception>
#include <functional>
#include <stdexcept>
#include <string>

#include <napi.h>

// Why an operation ended without a result. The words that JavaScript sees are in failure.cc, and nowhere else.
enum class FailureCode {
  kInvalidParameters,
  kModelLoadFailed,
  kGenerationFailed,
  kUnsupported,
  kBusy,
  kCancelled,
};

class Failure : public std::runtime_error {
 public:
  Failure(FailureCode code, const std::string& message) : std::runtime_error(message), code(code) {}
  const FailureCode code;
};

// An Error with `code` set. Main thread only.
Napi::Error ToError(Napi::Env env, const Failure& failure);

// Runs calls into the library. It throws through its C interface (std::bad_alloc for a size that does not fit in
// memory, for example), which would end the process if it left the thread. A Failure, and what JavaScript has thrown,
// pass unchanged.
void Guard(FailureCode code, const std::string& what, const std::function<void()>& calls);
