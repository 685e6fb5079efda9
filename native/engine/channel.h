#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>

#include <napi.h>

// Carries closures from any thread to the main thread of one environment, in the order in which they were sent.
//
// Sending never waits, so it can't slow inference down. What may be lost (progress, a preview, a line of the log) is
// dropped when the main thread is far behind; what must arrive (the end of an operation) is not. An open channel does
// not keep the process alive, unless it is held.
class Channel {
 public:
  using Delivery = std::function<void(Napi::Env)>;

  // Main thread, as are Hold, Release and Close.
  explicit Channel(Napi::Env env);
  ~Channel();
  Channel(const Channel&) = delete;
  Channel& operator=(const Channel&) = delete;

  void Hold(Napi::Env env);
  void Release(Napi::Env env);
  // Nothing is delivered from here on; what is sent later vanishes. To be called before the environment ends.
  void Close();

  // Any thread.
  void Send(Delivery delivery);
  void SendIfRoom(Delivery delivery);

 private:
  // Outlives the channel for as long as Node-API may still call.
  struct Queue {
    std::mutex mutex;  // guards the rest
    std::deque<Delivery> deliveries;
    bool woken = false;
    bool open = true;
  };
  static void Deliver(Napi::Env env, Napi::Function, std::shared_ptr<Queue>* queue, void*);
  using Waker = Napi::TypedThreadSafeFunction<std::shared_ptr<Queue>, void, Deliver>;

  void Push(Delivery delivery, size_t room);

  std::shared_ptr<Queue> queue_ = std::make_shared<Queue>();
  Waker waker_;
};
