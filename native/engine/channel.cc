#include "channel.h"

#include <limits>
#include <utility>

namespace {

// Closures that wait at most: a preview of 512×512 takes 0.8 MB.
constexpr size_t kRoom = 256;

}  // namespace

Channel::Channel(Napi::Env env) {
  auto* context = new std::shared_ptr<Queue>(queue_);
  waker_ = Waker::New(
      env, "sdrest_engine", 0, 1, context,
      [](Napi::Env, void*, std::shared_ptr<Queue>* queue) { delete queue; });
  waker_.Unref(env);
}

Channel::~Channel() { Close(); }

void Channel::Hold(Napi::Env env) { waker_.Ref(env); }

void Channel::Release(Napi::Env env) { waker_.Unref(env); }

void Channel::Close() {
  std::deque<Delivery> dropped;
  std::lock_guard<std::mutex> lock(queue_->mutex);
  if (!queue_->open) return;
  queue_->open = false;
  dropped.swap(queue_->deliveries);
  waker_.Release();
}

void Channel::Send(Delivery delivery) { Push(std::move(delivery), std::numeric_limits<size_t>::max()); }

void Channel::SendIfRoom(Delivery delivery) { Push(std::move(delivery), kRoom); }

void Channel::Push(Delivery delivery, size_t room) {
  std::lock_guard<std::mutex> lock(queue_->mutex);
  if (!queue_->open || queue_->deliveries.size() >= room) return;
  queue_->deliveries.push_back(std::move(delivery));
  if (queue_->woken) return;
  queue_->woken = waker_.NonBlockingCall() == napi_ok;
}

// Main thread. `env` is null when the environment is going down.
void Channel::Deliver(Napi::Env env, Napi::Function, std::shared_ptr<Queue>* context, void*) {
  if (static_cast<napi_env>(env) == nullptr) return;
  const std::shared_ptr<Queue> queue = *context;
  std::deque<Delivery> deliveries;
  {
    std::lock_guard<std::mutex> lock(queue->mutex);
    deliveries.swap(queue->deliveries);
    queue->woken = false;
  }
  for (; !deliveries.empty(); deliveries.pop_front()) {
    {
      std::lock_guard<std::mutex> lock(queue->mutex);
      if (!queue->open) return;  // a delivery has closed the channel
    }
    const Napi::HandleScope scope(env);
    try {
      deliveries.front()(env);
    } catch (const Napi::Error& error) {
      napi_fatal_exception(env, error.Value());  // as an exception of any other callback; the next ones are delivered
    }
  }
}
