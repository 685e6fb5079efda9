#pragma once

#include <memory>
#include <napi.h>

// Work that may block for seconds. A check never runs on libuv's pool: four slow PAM logins there would stop every
// file read of the server.
class Task {
 public:
  virtual ~Task() = default;
  // On a thread of its own; touches nothing of JavaScript. An exception becomes the rejection of the promise.
  virtual void Run() = 0;
  // On the JavaScript thread, after Run.
  virtual Napi::Value Answer(Napi::Env env) = 0;
};

// Runs tasks on one thread each and settles their promises. One per environment, used on its JavaScript thread.
//
// A thread can't be ended from outside, so it may outlive its environment (a worker that is terminated, a process that
// exits). It then finds the channel closed and drops its task.
class Background {
 public:
  explicit Background(Napi::Env env);
  Napi::Promise Start(Napi::Env env, std::unique_ptr<Task> task);

 private:
  struct Job;
  struct Channel;

  static void Settle(Napi::Env env, Napi::Function, Background* self, Job* job);
  using Function = Napi::TypedThreadSafeFunction<Background, Job, Settle>;

  Function function_;
  std::shared_ptr<Channel> channel_;
  std::size_t running_ = 0;
};
