#include "background.h"

#include <exception>
#include <mutex>
#include <string>
#include <thread>

namespace {

// SystemAccounts (lib/accounts/system-accounts.ts) allows far fewer. This bound is for callers without one of their own.
constexpr std::size_t kMostThreads = 64;

}  // namespace

// Owned by the thread while the task runs, then by the queue of the thread-safe function, then by Settle.
struct Background::Job {
  std::unique_ptr<Task> task;
  Napi::Promise::Deferred promise;
  std::string error;  // empty when Run came to its end
};

// Shared by the JavaScript thread and all running threads. The mutex makes sure that no thread calls the thread-safe
// function once the environment has begun to free it.
struct Background::Channel {
  std::mutex mutex;
  bool open = true;
  Function function;

  void Send(std::unique_ptr<Job> job) {
    const std::lock_guard<std::mutex> lock(mutex);
    if (open && function.NonBlockingCall(job.get()) == napi_ok) job.release();
  }
  void Close() {
    const std::lock_guard<std::mutex> lock(mutex);
    open = false;
  }
};

Background::Background(Napi::Env env)
    : function_(Function::New(env, "account checks", 0, 1, this)), channel_(std::make_shared<Channel>()) {
  channel_->function = function_;
  // An environment without running checks may end.
  function_.Unref(env);
  // Hooks run in reverse order: this one, added after the function's own, comes before the function is freed.
  env.AddCleanupHook([channel = channel_] { channel->Close(); });
}

Napi::Promise Background::Start(Napi::Env env, std::unique_ptr<Task> task) {
  if (running_ >= kMostThreads) throw Napi::Error::New(env, "Too many account checks are running.");
  auto job = std::unique_ptr<Job>(new Job{std::move(task), Napi::Promise::Deferred::New(env), ""});
  const Napi::Promise promise = job->promise.Promise();
  try {
    std::thread([channel = channel_, job = std::move(job)]() mutable {
      try {
        job->task->Run();
      } catch (const std::exception& error) {
        job->error = error.what();
      }
      channel->Send(std::move(job));
    }).detach();
  } catch (const std::system_error& error) {
    throw Napi::Error::New(env, std::string("No thread can be started for the account check: ") + error.what());
  }
  if (running_++ == 0) function_.Ref(env);
  return promise;
}

void Background::Settle(Napi::Env env, Napi::Function, Background* self, Job* job) {
  const std::unique_ptr<Job> owned(job);
  if (env == nullptr) return;  // the environment is ending; no caller is left
  if (--self->running_ == 0) self->function_.Unref(env);
  if (job->error.empty()) {
    job->promise.Resolve(job->task->Answer(env));
  } else {
    job->promise.Reject(Napi::Error::New(env, job->error).Value());
  }
}
