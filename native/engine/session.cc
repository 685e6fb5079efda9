#include "session.h"

#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <initializer_list>
#include <utility>

#include "failure.h"

namespace {

std::atomic<bool> session_exists{false};

// Warnings and errors of an operation that its failure names.
constexpr size_t kMaxComplaints = 4;

constexpr double kMaxUpscaledPixels = 8192.0 * 8192.0;

// The library reports every file that it can't open as a model that it can't read.
void RequireFile(FailureCode code, const char* what, const char* path) {
  if (path == nullptr || access(path, R_OK) == 0) return;
  throw Failure(code, std::string("The ") + what + " " + path + " cannot be read: " + std::strerror(errno) + ".");
}

// "stable-diffusion.cpp:715 - text\n" → "text"
std::string WithoutPlace(const std::string& line) {
  const size_t separator = line.find(" - ");
  return separator == std::string::npos ? line : line.substr(separator + 3);
}

void IgnoreProgress(int, int, float, void*) {}

}  // namespace

Session::Session(std::shared_ptr<Observer> observer) : observer_(std::move(observer)) {
  if (session_exists.exchange(true)) {
    throw Failure(FailureCode::kBusy, "This process has an engine already: the callbacks of the library are global.");
  }
  sd_set_log_callback(OnLog, this);
  sd_set_progress_callback(OnProgress, this);
  sd_set_preview_callback(nullptr, PREVIEW_NONE, 1, false, false, nullptr);
}

Session::~Session() {
  context_.reset();
  upscaler_.reset();
  sd_set_log_callback(nullptr, nullptr);
  sd_set_progress_callback(IgnoreProgress, nullptr);  // without one the library draws bars on the standard output
  sd_set_preview_callback(nullptr, PREVIEW_NONE, 1, false, false, nullptr);
  session_exists = false;
}

void Session::Begin() {
  cancel_ = SD_CANCEL_RESET;
  std::lock_guard<std::mutex> lock(complaints_mutex_);
  complaints_.clear();
}

ModelDefaults Session::Load(ContextParams& params) {
  const sd_ctx_params_t& files = params.params;
  for (const auto& [what, path] : std::initializer_list<std::pair<const char*, const char*>>{
           {"model", files.model_path},
           {"diffusion model", files.diffusion_model_path},
           {"high noise diffusion model", files.high_noise_diffusion_model_path},
           {"unconditional diffusion model", files.uncond_diffusion_model_path},
           {"text encoder", files.clip_l_path},
           {"text encoder", files.clip_g_path},
           {"text encoder", files.t5xxl_path},
           {"text encoder", files.llm_path},
           {"vision encoder", files.clip_vision_path},
           {"vision encoder", files.llm_vision_path},
           {"VAE", files.vae_path},
           {"TAESD", files.taesd_path},
           {"ControlNet", files.control_net_path},
           {"IP-Adapter", files.ip_adapter_path},
           {"PhotoMaker model", files.photo_maker_path},
           {"PuLID model", files.pulid_weights_path}}) {
    RequireFile(FailureCode::kModelLoadFailed, what, path);
  }
  for (const sd_embedding_t& embedding : params.embeddings) {
    RequireFile(FailureCode::kModelLoadFailed, "embedding", embedding.path);
  }
  context_.reset();  // before the next one is read: two models may not fit
  ModelDefaults defaults;
  Guard(FailureCode::kModelLoadFailed, "Loading the model", [&] {
    context_.reset(new_sd_ctx(&params.params));
    if (!context_) return;
    const sample_method_t sampler = sd_get_default_sample_method(context_.get());
    defaults.sampler = sd_sample_method_name(sampler);
    defaults.scheduler = sd_scheduler_name(sd_get_default_scheduler(context_.get(), sampler));
  });
  if (!context_) Fail(FailureCode::kModelLoadFailed, "The model could not be loaded");
  if (!sd_ctx_supports_image_generation(context_.get())) {
    context_.reset();
    throw Failure(FailureCode::kModelLoadFailed, "This is a model for videos; it draws no images.");
  }
  return defaults;
}

void Session::LoadUpscaler(UpscalerParams& params) {
  RequireFile(FailureCode::kModelLoadFailed, "upscaler", params.esrgan);
  upscaler_.reset();
  Guard(FailureCode::kModelLoadFailed, "Loading the upscaler", [&] {
    upscaler_.reset(new_upscaler_ctx(params.esrgan, params.direct, params.threads, params.tile_size, params.backend,
                                     params.params_backend));
  });
  if (!upscaler_) Fail(FailureCode::kModelLoadFailed, "The upscaler could not be loaded");
}

void Session::Unload() {
  context_.reset();
  upscaler_.reset();
}

void Session::LoadControlNet(const std::string& path) {
  if (!context_) throw Failure(FailureCode::kModelLoadFailed, "No model is loaded for the ControlNet to guide.");
  if (!path.empty()) RequireFile(FailureCode::kModelLoadFailed, "ControlNet", path.c_str());
  bool done = false;
  Guard(FailureCode::kModelLoadFailed, "Loading the ControlNet", [&] {
    done = path.empty() ? sd_ctx_unload_control_net(context_.get()) : sd_ctx_load_control_net(context_.get(), path.c_str());
  });
  if (!done) Fail(FailureCode::kModelLoadFailed, "The ControlNet could not be loaded");
}

std::vector<Image> Session::Generate(GenerationParams& params) {
  if (!context_) throw Failure(FailureCode::kGenerationFailed, "No model is loaded.");
  for (const sd_lora_t& lora : params.loras) RequireFile(FailureCode::kInvalidParameters, "LoRA", lora.path);
  RequireFile(FailureCode::kInvalidParameters, "upscaler", params.params.hires.model_path);
  RequireFile(FailureCode::kInvalidParameters, "PhotoMaker embedding", params.params.pm_params.id_embed_path);
  RequireFile(FailureCode::kInvalidParameters, "PuLID embedding", params.params.pulid_params.id_embedding_path);

  preview_ = params.preview;
  last_preview_ = {};
  AskForPreview(preview_.mode != PREVIEW_NONE);
  {
    std::lock_guard<std::mutex> lock(generating_mutex_);
    generating_ = context_.get();
  }
  struct AtTheEnd {
    Session& session;
    ~AtTheEnd() {
      session.preview_ = {};
      session.AskForPreview(false);
      std::lock_guard<std::mutex> lock(session.generating_mutex_);
      session.generating_ = nullptr;
    }
  } at_the_end{*this};

  LibraryImages images;
  std::vector<Image> copies;
  bool done = false;
  Guard(FailureCode::kGenerationFailed, "The generation", [&] {
    done = generate_image(context_.get(), &params.params, images.out(), images.count_out());
    if (done) copies = images.Copy();
  });
  if (cancel_ == SD_CANCEL_ALL || (!done && Cancelled())) {
    throw Failure(FailureCode::kCancelled, "The generation was cancelled.");
  }
  if (!done) Fail(FailureCode::kGenerationFailed, "The image could not be generated");
  return copies;
}

Image Session::Upscale(const UpscaleParams& params) {
  if (!upscaler_) throw Failure(FailureCode::kGenerationFailed, "No upscaler is loaded.");
  LibraryImages images;
  std::vector<Image> copies;
  bool done = false;
  Guard(FailureCode::kGenerationFailed, "Upscaling", [&] {
    const uint32_t factor = params.factor != 0 ? params.factor : get_upscale_factor(upscaler_.get());
    if (static_cast<double>(params.image.width) * params.image.height * factor * factor > kMaxUpscaledPixels) {
      throw Failure(FailureCode::kInvalidParameters, "Expected an image that has at most 8192 × 8192 pixels when it is " +
                                                         std::to_string(factor) + " times as wide and high.");
    }
    done = upscale(upscaler_.get(), params.image, factor, images.out(), images.count_out());
    if (done) copies = images.Copy();
  });
  if (!done) Fail(FailureCode::kGenerationFailed, "The image could not be upscaled");
  return std::move(copies.front());
}

void Session::Convert(const ConvertParams& params) {
  RequireFile(FailureCode::kInvalidParameters, "model", params.input);
  RequireFile(FailureCode::kInvalidParameters, "VAE", params.vae);
  bool done = false;
  Guard(FailureCode::kGenerationFailed, "Converting", [&] {
    done = convert_with_components(params.input, nullptr, nullptr, nullptr, nullptr, params.vae, params.output,
                                   params.type, params.tensor_type_rules, params.convert_name, params.threads);
  });
  if (!done) Fail(FailureCode::kGenerationFailed, "The model could not be converted");
}

Image Session::Canny(const CannyParams& params) {
  bool done = false;
  Guard(FailureCode::kGenerationFailed, "Finding edges", [&] {
    done = preprocess_canny(params.image, params.high_threshold, params.low_threshold, params.weak, params.strong,
                            params.inverse);
  });
  if (!done) Fail(FailureCode::kGenerationFailed, "The edges of the image could not be found");
  return Image::From(params.image);  // drawn over the one that was given
}

void Session::Cancel(bool keep_finished) {
  cancel_ = keep_finished ? SD_CANCEL_NEW_LATENTS : SD_CANCEL_ALL;
  std::lock_guard<std::mutex> lock(generating_mutex_);
  if (generating_ != nullptr) sd_cancel_generation(generating_, cancel_);
}

// The library forgets a cancellation when a generation begins, and one may come a moment earlier. Any thread.
void Session::RepeatCancellation() {
  if (!Cancelled()) return;
  // The holder of the lock is cancelling right now, and a library that logs while it does would wait for itself here.
  const std::unique_lock<std::mutex> lock(generating_mutex_, std::try_to_lock);
  if (lock && generating_ != nullptr) sd_cancel_generation(generating_, cancel_);
}

// The library has no notion of time in previews, but it looks before each step whether one is wanted. On the thread of
// the operation, as is everything that reads these settings.
void Session::AskForPreview(bool wanted) {
  const preview_t mode = preview_.mode;
  sd_set_preview_callback(mode == PREVIEW_NONE ? nullptr : OnPreview, mode, 1, wanted, false, this);
}

void Session::Fail(FailureCode code, const std::string& what) {
  std::string message = what;
  std::lock_guard<std::mutex> lock(complaints_mutex_);
  for (size_t index = 0; index < complaints_.size(); index++) {
    message += (index == 0 ? ": " : "; ") + complaints_[index];
  }
  throw Failure(code, message + (complaints_.empty() ? "; the library does not say why." : "."));
}

void Session::OnProgress(int step, int steps, float, void* data) {
  auto* session = static_cast<Session*>(data);
  session->RepeatCancellation();
  if (session->preview_.mode != PREVIEW_NONE) {
    const auto since = std::chrono::steady_clock::now() - session->last_preview_;
    session->AskForPreview(since >= std::chrono::milliseconds(session->preview_.interval));
  }
  try {
    session->observer_->OnProgress(step, steps);
  } catch (const std::exception&) {
    // No memory to tell it: the picture itself may still succeed, and C code can't be left by an exception.
  }
}

void Session::OnPreview(int step, int count, sd_image_t* frames, bool, void* data) {
  auto* session = static_cast<Session*>(data);
  session->last_preview_ = std::chrono::steady_clock::now();
  if (count < 1 || frames == nullptr || frames[0].data == nullptr) return;
  try {
    session->observer_->OnPreview(step, Image::From(frames[0]));
  } catch (const std::exception&) {
    // No memory for a preview, as above.
  }
}

void Session::OnLog(sd_log_level_t level, const char* text, void* data) {
  auto* session = static_cast<Session*>(data);
  if (text == nullptr) return;
  session->RepeatCancellation();
  try {
    std::string line(text);
    while (!line.empty() && (line.back() == '\n' || line.back() == '\r')) line.pop_back();
    if (level >= SD_LOG_WARN) {
      std::lock_guard<std::mutex> lock(session->complaints_mutex_);
      session->complaints_.push_back(WithoutPlace(line));
      if (session->complaints_.size() > kMaxComplaints) session->complaints_.pop_front();
    }
    session->observer_->OnLog(level, std::move(line));
  } catch (const std::exception&) {
    // No memory for a line of the log.
  }
}
