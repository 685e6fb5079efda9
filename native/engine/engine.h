#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include <napi.h>

#include "channel.h"
#include "failure.h"
#include "session.h"

// The JavaScript class `Engine`: reads arguments, runs one operation at a time on a thread of its own, and turns what
// comes of it into a promise. The listener given to the constructor hears progress, previews and the log.
//
// An object without references is kept until its operation has ended.
class Engine : public Napi::ObjectWrap<Engine> {
 public:
  static Napi::Function Define(Napi::Env env);

  explicit Engine(const Napi::CallbackInfo& info);
  ~Engine() override;

 private:
  // What an operation gives back.
  struct Outcome {
    std::vector<Image> images;
    std::optional<ModelDefaults> defaults;
  };
  using Operation = std::function<Outcome(Session&)>;

  Napi::Value Load(const Napi::CallbackInfo& info);
  Napi::Value LoadUpscaler(const Napi::CallbackInfo& info);
  Napi::Value LoadControlNet(const Napi::CallbackInfo& info);
  Napi::Value Unload(const Napi::CallbackInfo& info);
  Napi::Value Generate(const Napi::CallbackInfo& info);
  Napi::Value Upscale(const Napi::CallbackInfo& info);
  Napi::Value Convert(const Napi::CallbackInfo& info);
  Napi::Value Canny(const Napi::CallbackInfo& info);
  Napi::Value Cancel(const Napi::CallbackInfo& info);
  Napi::Value Close(const Napi::CallbackInfo& info);
  Napi::Value Busy(const Napi::CallbackInfo& info);

  // Reads the arguments with `prepare`, starts the operation that it returns and gives the promise of its outcome.
  Napi::Value Start(Napi::Env env, const std::function<Operation()>& prepare);
  void Finish(Napi::Env env);
  void CloseNow();
  static void EndWithEnvironment(void* engine);

  // One operation, from the call to its promise. The thread keeps it until it has told the channel.
  struct Task {
    explicit Task(Napi::Env env) : deferred(Napi::Promise::Deferred::New(env)) {}
    void Run();                  // on the thread
    void Settle(Napi::Env env);  // main thread
    bool WaitForEnd(std::chrono::milliseconds patience);

    Napi::Promise::Deferred deferred;
    std::shared_ptr<Session> session;
    Operation operation;
    Outcome outcome;
    std::optional<Failure> failure;
    double milliseconds = 0;

    std::mutex mutex;
    std::condition_variable ended_condition;
    bool ended = false;  // guarded by mutex
  };

  Napi::FunctionReference listener_;
  std::shared_ptr<Channel> channel_;
  std::shared_ptr<Session> session_;  // empty once closed
  std::shared_ptr<Task> task_;        // set while an operation runs
  std::thread thread_;
  bool closing_ = false;  // when the operation that runs has ended
};
