#include "failure.h"

#include <new>

namespace {

// The codes of lib/engine/engine.ts.
const char* Word(FailureCode code) {
  switch (code) {
    case FailureCode::kInvalidParameters: return "invalid_parameters";
    case FailureCode::kModelLoadFailed: return "model_load_failed";
    case FailureCode::kGenerationFailed: return "generation_failed";
    case FailureCode::kUnsupported: return "unsupported";
    case FailureCode::kBusy: return "engine_busy";
    case FailureCode::kCancelled: return "cancelled";
  }
  return "generation_failed";
}

}  // namespace

Napi::Error ToError(Napi::Env env, const Failure& failure) {
  Napi::Error error = Napi::Error::New(env, failure.what());
  error.Set("code", Napi::String::New(env, Word(failure.code)));
  return error;
}

void Guard(FailureCode code, const std::string& what, const std::function<void()>& calls) {
  try {
    calls();
  } catch (const Failure&) {
    throw;
  } catch (const Napi::Error&) {  // of the caller's own code: a getter that throws
    throw;
  } catch (const std::bad_alloc&) {
    throw Failure(code, what + " failed: the machine has not enough memory for it.");
  } catch (const std::exception& error) {
    throw Failure(code, what + " failed: the library threw \"" + error.what() + "\".");
  } catch (...) {
    throw Failure(code, what + " failed: the library threw something that is no exception.");
  }
}
