#include "engine.h"

#include <stdlib.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <utility>

#include "failure.h"
#include "library.h"

namespace {

// How long the end of an environment waits for a cancelled operation before it leaves the thread to itself.
constexpr std::chrono::milliseconds kPatience{500};

// Turns what the library says into calls of the listener.
class Listener : public Observer {
 public:
  Listener(std::shared_ptr<Channel> channel, Napi::FunctionReference* function)
      : channel_(std::move(channel)), function_(function) {}

  void OnProgress(int step, int steps) override {
    channel_->SendIfRoom([function = function_, step, steps](Napi::Env env) {
      Napi::Object event = Event(env, "progress");
      event["step"] = Napi::Number::New(env, step);
      event["steps"] = Napi::Number::New(env, steps);
      function->Call({event});
    });
  }

  void OnPreview(int step, Image image) override {
    // std::function copies, and the bytes should not be.
    auto shared = std::make_shared<Image>(std::move(image));
    channel_->SendIfRoom([function = function_, step, shared](Napi::Env env) {
      Napi::Object event = Event(env, "preview");
      event["step"] = Napi::Number::New(env, step);
      event["image"] = shared->ToObject(env);
      function->Call({event});
    });
  }

  void OnLog(int level, std::string line) override {
    if (level == SD_LOG_DEBUG) return;
    channel_->SendIfRoom([function = function_, level, line = std::move(line)](Napi::Env env) {
      static const char* const levels[] = {"debug", "info", "warn", "error"};
      Napi::Object event = Event(env, "log");
      event["level"] = Napi::String::New(env, levels[level < 0 || level > SD_LOG_ERROR ? SD_LOG_ERROR : level]);
      event["message"] = Napi::String::New(env, line);
      function->Call({event});
    });
  }

 private:
  static Napi::Object Event(Napi::Env env, const char* type) {
    Napi::Object event = Napi::Object::New(env);
    event["type"] = Napi::String::New(env, type);
    return event;
  }

  const std::shared_ptr<Channel> channel_;
  // Belongs to the Engine, which closes the channel before it goes.
  Napi::FunctionReference* const function_;
};

Napi::Object Parameters(const Napi::CallbackInfo& info) {
  if (info.Length() < 1 || !info[0].IsObject()) {
    throw Failure(FailureCode::kInvalidParameters, "Expected an object with parameters for the first argument.");
  }
  return info[0].As<Napi::Object>();
}

std::atomic<int> running_operations{0};

#ifdef __GLIBC__
// exit() destroys the library's globals while a thread may still be computing with them, and the process would end
// with a segmentation fault instead of its exit code. Runs before those destructors.
void LeaveAtOnceWhenBusy(int status, void*) {
  if (running_operations > 0) _exit(status);
}
#endif

}  // namespace

Napi::Function Engine::Define(Napi::Env env) {
  return DefineClass(env, "Engine",
                     {
                         InstanceMethod<&Engine::Load>("load"),
                         InstanceMethod<&Engine::LoadUpscaler>("loadUpscaler"),
                         InstanceMethod<&Engine::LoadControlNet>("loadControlNet"),
                         InstanceMethod<&Engine::Unload>("unload"),
                         InstanceMethod<&Engine::Generate>("generate"),
                         InstanceMethod<&Engine::Upscale>("upscale"),
                         InstanceMethod<&Engine::Convert>("convert"),
                         InstanceMethod<&Engine::Canny>("canny"),
                         InstanceMethod<&Engine::Cancel>("cancel"),
                         InstanceMethod<&Engine::Close>("close"),
                         InstanceAccessor<&Engine::Busy>("busy"),
                     });
}

Engine::Engine(const Napi::CallbackInfo& info) : Napi::ObjectWrap<Engine>(info) {
  Napi::Env env = info.Env();
  if (info.Length() < 1 || !info[0].IsFunction()) {
    throw Napi::TypeError::New(env, "Expected a function that hears events for the first argument.");
  }
  listener_ = Napi::Persistent(info[0].As<Napi::Function>());
  channel_ = std::make_shared<Channel>(env);
  try {
    session_ = std::make_shared<Session>(std::make_shared<Listener>(channel_, &listener_));
  } catch (const Failure& failure) {
    channel_->Close();
    throw ToError(env, failure);
  }
  napi_add_env_cleanup_hook(env, EndWithEnvironment, this);
#ifdef __GLIBC__
  static std::once_flag once;
  std::call_once(once, [] { on_exit(LeaveAtOnceWhenBusy, nullptr); });
#endif
}

Engine::~Engine() {
  napi_remove_env_cleanup_hook(Env(), EndWithEnvironment, this);
  CloseNow();
}

void Engine::CloseNow() {
  channel_->Close();
  session_.reset();
}

// The environment ends: process.exit(), or the end of a worker. Waiting for a step of the model would hold that up for
// minutes, so a thread that does not stop soon keeps what it needs and works on without a caller.
void Engine::EndWithEnvironment(void* data) {
  auto* engine = static_cast<Engine*>(data);
  engine->channel_->Close();
  if (engine->task_) {
    engine->session_->Cancel(false);
    if (engine->task_->WaitForEnd(kPatience)) {
      engine->thread_.join();
    } else {
      engine->thread_.detach();
    }
  }
  engine->session_.reset();
}

void Engine::Task::Run() {
  const auto begin = std::chrono::steady_clock::now();
  try {
    Guard(FailureCode::kGenerationFailed, "The operation", [this] { outcome = operation(*session); });
  } catch (const Failure& caught) {
    failure.emplace(caught);
  }
  milliseconds = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count();
  operation = nullptr;
  session.reset();
  running_operations--;
  std::lock_guard<std::mutex> lock(mutex);
  ended = true;
  ended_condition.notify_all();
}

bool Engine::Task::WaitForEnd(std::chrono::milliseconds patience) {
  std::unique_lock<std::mutex> lock(mutex);
  return ended_condition.wait_for(lock, patience, [this] { return ended; });
}

void Engine::Task::Settle(Napi::Env env) {
  if (failure) return deferred.Reject(ToError(env, *failure).Value());
  Napi::Object result = Napi::Object::New(env);
  result["milliseconds"] = Napi::Number::New(env, milliseconds);
  if (outcome.defaults) {
    result["sampler"] = Napi::String::New(env, outcome.defaults->sampler);
    result["scheduler"] = Napi::String::New(env, outcome.defaults->scheduler);
  }
  Napi::Array images = Napi::Array::New(env);
  for (const Image& image : outcome.images) images[images.Length()] = image.ToObject(env);
  result["images"] = images;
  deferred.Resolve(result);
}

Napi::Value Engine::Start(Napi::Env env, const std::function<Operation()>& prepare) {
  auto task = std::make_shared<Task>(env);
  try {
    if (!session_ || closing_) throw Failure(FailureCode::kUnsupported, "This engine was closed.");
    if (task_) throw Failure(FailureCode::kBusy, "This engine is busy with another operation.");
    Guard(FailureCode::kInvalidParameters, "Reading the parameters", [&] { task->operation = prepare(); });
    task->session = session_;
    session_->Begin();
    running_operations++;  // before the thread begins, which a process that exits now would not wait for
    Guard(FailureCode::kGenerationFailed, "Starting a thread", [&] {
      try {
        thread_ = std::thread([this, task, channel = channel_] {
          task->Run();
          channel->Send([this](Napi::Env environment) { Finish(environment); });
        });
      } catch (...) {
        running_operations--;
        throw;
      }
    });
  } catch (const Napi::Error& error) {  // thrown by a getter of the parameters
    task->deferred.Reject(error.Value());
    return task->deferred.Promise();
  } catch (const Failure& failure) {
    task->deferred.Reject(ToError(env, failure).Value());
    return task->deferred.Promise();
  }
  task_ = task;
  Ref();
  channel_->Hold(env);
  return task->deferred.Promise();
}

// Main thread, after everything that the operation has said was delivered.
void Engine::Finish(Napi::Env env) {
  thread_.join();
  const std::shared_ptr<Task> task = std::move(task_);
  task_.reset();
  channel_->Release(env);
  Unref();
  if (closing_) CloseNow();
  task->Settle(env);
}

Napi::Value Engine::Load(const Napi::CallbackInfo& info) {
  return Start(info.Env(), [&]() -> Operation {
    auto params = std::make_shared<ContextParams>(ContextParams::Read(Parameters(info)));
    return [params](Session& session) { return Outcome{{}, session.Load(*params)}; };
  });
}

Napi::Value Engine::LoadUpscaler(const Napi::CallbackInfo& info) {
  return Start(info.Env(), [&]() -> Operation {
    auto params = std::make_shared<UpscalerParams>(UpscalerParams::Read(Parameters(info)));
    return [params](Session& session) {
      session.LoadUpscaler(*params);
      return Outcome{};
    };
  });
}

Napi::Value Engine::LoadControlNet(const Napi::CallbackInfo& info) {
  return Start(info.Env(), [&]() -> Operation {
    Storage storage;
    const char* path = "";
    Options options(Parameters(info), storage);
    options.Text("control_net", path);
    options.Finish();
    return [path = std::string(path)](Session& session) {
      session.LoadControlNet(path);
      return Outcome{};
    };
  });
}

Napi::Value Engine::Unload(const Napi::CallbackInfo& info) {
  return Start(info.Env(), []() -> Operation {
    return [](Session& session) {
      session.Unload();
      return Outcome{};
    };
  });
}

Napi::Value Engine::Generate(const Napi::CallbackInfo& info) {
  return Start(info.Env(), [&]() -> Operation {
    auto params = std::make_shared<GenerationParams>(GenerationParams::Read(Parameters(info)));
    return [params](Session& session) { return Outcome{session.Generate(*params), {}}; };
  });
}

Napi::Value Engine::Upscale(const Napi::CallbackInfo& info) {
  return Start(info.Env(), [&]() -> Operation {
    auto params = std::make_shared<UpscaleParams>();
    Options options(Parameters(info), params->storage);
    options.Picture("image", params->image, 3);
    options.Whole("factor", params->factor, 1, 8);
    options.Finish();
    if (params->image.data == nullptr) options.Refuse("image", "a picture");
    return [params](Session& session) { return Outcome{{session.Upscale(*params)}, {}}; };
  });
}

Napi::Value Engine::Convert(const Napi::CallbackInfo& info) {
  return Start(info.Env(), [&]() -> Operation {
    auto params = std::make_shared<ConvertParams>();
    Options options(Parameters(info), params->storage);
    options.Text("input", params->input);
    options.Text("vae", params->vae);
    options.Text("output", params->output);
    ReadWeightType(options, "weight_type", params->type);
    options.Text("tensor_type_rules", params->tensor_type_rules);
    options.Flag("convert_name", params->convert_name);
    options.Whole("threads", params->threads, 1, 256);
    options.Finish();
    if (params->input == nullptr) options.Refuse("input", "a path");
    if (params->output == nullptr) options.Refuse("output", "a path");
    return [params](Session& session) {
      session.Convert(*params);
      return Outcome{};
    };
  });
}

Napi::Value Engine::Canny(const Napi::CallbackInfo& info) {
  return Start(info.Env(), [&]() -> Operation {
    auto params = std::make_shared<CannyParams>();
    Options options(Parameters(info), params->storage);
    options.Picture("image", params->image, 3);
    options.Number("high_threshold", params->high_threshold, 0, 1);
    options.Number("low_threshold", params->low_threshold, 0, 1);
    options.Number("weak", params->weak, 0, 1);
    options.Number("strong", params->strong, 0, 1);
    options.Flag("inverse", params->inverse);
    options.Finish();
    if (params->image.data == nullptr) options.Refuse("image", "a picture");
    return [params](Session& session) { return Outcome{{session.Canny(*params)}, {}}; };
  });
}

Napi::Value Engine::Cancel(const Napi::CallbackInfo& info) {
  const bool keep_finished = info.Length() > 0 && info[0].ToBoolean().Value();
  if (task_) session_->Cancel(keep_finished);
  return Napi::Boolean::New(info.Env(), task_ != nullptr);
}

Napi::Value Engine::Close(const Napi::CallbackInfo& info) {
  if (task_) {
    closing_ = true;
    session_->Cancel(false);
  } else {
    CloseNow();
  }
  return info.Env().Undefined();
}

Napi::Value Engine::Busy(const Napi::CallbackInfo& info) { return Napi::Boolean::New(info.Env(), task_ != nullptr); }
