#pragma once

#include <atomic>
#include <chrono>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include <stable-diffusion.h>

#include "context_params.h"
#include "failure.h"
#include "generation_params.h"
#include "image.h"

// Hears what the library says while it works. Called on the threads of the library: must return at once, may not throw.
class Observer {
 public:
  virtual ~Observer() = default;
  virtual void OnProgress(int step, int steps) = 0;
  virtual void OnPreview(int step, Image image) = 0;
  // `level` is the library's: 0 debug, 1 information, 2 warning, 3 error.
  virtual void OnLog(int level, std::string line) = 0;
};

struct ModelDefaults {
  std::string sampler;
  std::string scheduler;
};

struct UpscaleParams {
  sd_image_t image = {};
  uint32_t factor = 0;  // 0: the upscaler's own
  Storage storage;
};

struct ConvertParams {
  const char* input = nullptr;
  const char* vae = nullptr;
  const char* output = nullptr;
  sd_type_t type = SD_TYPE_COUNT;
  const char* tensor_type_rules = "";  // the library makes a std::string of it
  bool convert_name = false;
  int threads = 0;  // 0: the library's choice
  Storage storage;
};

struct CannyParams {
  sd_image_t image = {};
  float high_threshold = 0.08f;
  float low_threshold = 0.08f;
  float weak = 0.8f;
  float strong = 1.0f;
  bool inverse = false;
  Storage storage;
};

// The model, the upscaler and every call that uses them. There is one at a time in a process, because the callbacks of
// the library are global; it belongs to the holders of its pointers, and what it owns goes with the last one.
//
// All functions but Cancel run on one thread at a time, which may take minutes in them; they throw Failure.
class Session {
 public:
  // Throws Failure when there is one already.
  explicit Session(std::shared_ptr<Observer> observer);
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  // Replaces the model that was loaded before.
  ModelDefaults Load(ContextParams& params);
  void LoadUpscaler(UpscalerParams& params);
  void Unload();
  // An empty path takes the ControlNet away.
  void LoadControlNet(const std::string& path);

  std::vector<Image> Generate(GenerationParams& params);
  Image Upscale(const UpscaleParams& params);
  void Convert(const ConvertParams& params);
  Image Canny(const CannyParams& params);

  // Before each operation: forgets a cancellation and the complaints of the operation before.
  void Begin();

  // Any thread. Asks the generation that runs to stop: at once, or with `keep_finished` after the image that is being
  // drawn. The library looks at it between two steps; other operations cannot be stopped.
  void Cancel(bool keep_finished);

 private:
  struct FreeContext { void operator()(sd_ctx_t* context) const { free_sd_ctx(context); } };
  struct FreeUpscaler { void operator()(upscaler_ctx_t* context) const { free_upscaler_ctx(context); } };

  static void OnProgress(int step, int steps, float time, void* session);
  static void OnPreview(int step, int count, sd_image_t* frames, bool noisy, void* session);
  static void OnLog(sd_log_level_t level, const char* text, void* session);

  bool Cancelled() const { return cancel_.load() != SD_CANCEL_RESET; }
  void RepeatCancellation();
  void AskForPreview(bool wanted);
  [[noreturn]] void Fail(FailureCode code, const std::string& what);

  const std::shared_ptr<Observer> observer_;
  std::unique_ptr<sd_ctx_t, FreeContext> context_;
  std::unique_ptr<upscaler_ctx_t, FreeUpscaler> upscaler_;

  std::atomic<sd_cancel_mode_t> cancel_{SD_CANCEL_RESET};
  std::mutex generating_mutex_;
  sd_ctx_t* generating_ = nullptr;  // guarded by generating_mutex_

  PreviewParams preview_;
  std::chrono::steady_clock::time_point last_preview_;

  std::mutex complaints_mutex_;
  std::deque<std::string> complaints_;  // guarded by complaints_mutex_
};
