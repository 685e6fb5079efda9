#include "generation_params.h"

#include <cmath>

#include "failure.h"

namespace {

constexpr size_t kMaxPath = 4096;
constexpr size_t kMaxPrompt = 65536;  // bytes
constexpr int kMinSide = 64;          // smaller ones are rounded up to it in silence
constexpr int kMaxSide = 8192;
constexpr double kMaxPixels = 4096.0 * 4096.0;
constexpr int kMaxSteps = 1000;
constexpr int kMaxBatch = 64;
constexpr size_t kMaxLoras = 64;
constexpr size_t kMaxPictures = 16;
constexpr double kMaxSigma = 10000;

void ReadSize(Options& options, const char* width_key, int& width, const char* height_key, int& height) {
  options.Whole(width_key, width, kMinSide, kMaxSide);
  options.Whole(height_key, height, kMinSide, kMaxSide);
  // The library rounds up to what the model can draw; a multiple of 8 is the least that every one of them needs.
  if (width % 8 != 0) options.Refuse(width_key, "a multiple of 8");
  if (height % 8 != 0) options.Refuse(height_key, "a multiple of 8");
  if (static_cast<double>(width) * height > kMaxPixels) {
    options.Refuse(std::string(width_key) + " × " + height_key, "at most 4096 × 4096 pixels");
  }
}

void ReadSampling(Options& options, sd_sample_params_t& sample) {
  options.Whole("steps", sample.sample_steps, 1, kMaxSteps);
  options.Choice("sampler", sample.sample_method, SAMPLE_METHOD_COUNT, sd_sample_method_name);
  options.Choice("scheduler", sample.scheduler, SCHEDULER_COUNT, sd_scheduler_name);
  options.Number("cfg_scale", sample.guidance.txt_cfg, 0, 100);
  options.Number("img_cfg_scale", sample.guidance.img_cfg, 0, 100);
  options.Number("guidance", sample.guidance.distilled_guidance, 0, 100);
  options.Number("eta", sample.eta, 0, 100);
  options.Number("flow_shift", sample.flow_shift, 0, 100);
  options.Whole("shifted_timestep", sample.shifted_timestep, 0, 1000);
  options.Numbers("custom_sigmas", sample.custom_sigmas, sample.custom_sigmas_count, 2, kMaxSteps + 1, 0, kMaxSigma);
  options.Text("extra_sample_args", sample.extra_sample_args);
  options.Nested("skip_layer_guidance", [&](Options& slg) {
    slg.Integers("layers", sample.guidance.slg.layers, sample.guidance.slg.layer_count, 256, 0, 1023);
    slg.Number("start", sample.guidance.slg.layer_start, 0, 1);
    slg.Number("end", sample.guidance.slg.layer_end, 0, 1);
    slg.Number("scale", sample.guidance.slg.scale, -100, 100);
  });
}

void ReadTiling(Options& options, sd_tiling_params_t& tiling) {
  options.Nested("vae_tiling", [&](Options& object) {
    tiling.enabled = true;
    object.Flag("enabled", tiling.enabled);
    object.Flag("temporal_tiling", tiling.temporal_tiling);
    object.Whole("tile_size_x", tiling.tile_size_x, 0, 1024);  // in latent pixels; 0 is the library's choice
    object.Whole("tile_size_y", tiling.tile_size_y, 0, 1024);
    object.Number("rel_size_x", tiling.rel_size_x, 0, 100);
    object.Number("rel_size_y", tiling.rel_size_y, 0, 100);
    object.Number("target_overlap", tiling.target_overlap, 0, 0.5);
    object.Text("extra_tiling_args", tiling.extra_tiling_args);
  });
}

void ReadCache(Options& options, sd_cache_params_t& cache) {
  options.Nested("cache", [&](Options& object) {
    object.Choice("mode", cache.mode,
                  {{"disabled", SD_CACHE_DISABLED},
                   {"easycache", SD_CACHE_EASYCACHE},
                   {"ucache", SD_CACHE_UCACHE},
                   {"dbcache", SD_CACHE_DBCACHE},
                   {"taylorseer", SD_CACHE_TAYLORSEER},
                   {"cache_dit", SD_CACHE_CACHE_DIT},
                   {"spectrum", SD_CACHE_SPECTRUM}});
    object.Number("reuse_threshold", cache.reuse_threshold, 0, 1000);
    object.Number("start_percent", cache.start_percent, 0, 1);
    object.Number("end_percent", cache.end_percent, 0, 1);
    object.Number("error_decay_rate", cache.error_decay_rate, 0, 100);
    object.Flag("use_relative_threshold", cache.use_relative_threshold);
    object.Flag("reset_error_on_compute", cache.reset_error_on_compute);
    object.Whole("fn_compute_blocks", cache.Fn_compute_blocks, 0, 1000);
    object.Whole("bn_compute_blocks", cache.Bn_compute_blocks, 0, 1000);
    object.Number("residual_diff_threshold", cache.residual_diff_threshold, 0, 1000);
    object.Whole("max_warmup_steps", cache.max_warmup_steps, 0, kMaxSteps);
    object.Whole("max_cached_steps", cache.max_cached_steps, -1, kMaxSteps);
    object.Whole("max_continuous_cached_steps", cache.max_continuous_cached_steps, -1, kMaxSteps);
    object.Whole("taylorseer_n_derivatives", cache.taylorseer_n_derivatives, 0, 10);
    object.Whole("taylorseer_skip_interval", cache.taylorseer_skip_interval, 1, kMaxSteps);
    object.Text("scm_mask", cache.scm_mask);
    object.Flag("scm_policy_dynamic", cache.scm_policy_dynamic);
    object.Number("spectrum_w", cache.spectrum_w, 0, 1);
    object.Whole("spectrum_m", cache.spectrum_m, 1, 100);
    object.Number("spectrum_lam", cache.spectrum_lam, 0, 1000);
    object.Whole("spectrum_window_size", cache.spectrum_window_size, 1, kMaxSteps);
    object.Number("spectrum_flex_window", cache.spectrum_flex_window, 0, 100);
    object.Whole("spectrum_warmup_steps", cache.spectrum_warmup_steps, 0, kMaxSteps);
    object.Number("spectrum_stop_percent", cache.spectrum_stop_percent, 0, 1);
  });
}

void ReadHires(Options& options, sd_hires_params_t& hires, int width, int height) {
  options.Nested("hires", [&](Options& object) {
    hires.enabled = true;
    object.Flag("enabled", hires.enabled);
    object.Choice("upscaler", hires.upscaler, SD_HIRES_UPSCALER_COUNT, sd_hires_upscaler_name);
    object.Text("model_path", hires.model_path, kMaxPath);
    object.Number("scale", hires.scale, 1, 8);
    if (object.Has("target_width") || object.Has("target_height")) {
      hires.target_width = width;
      hires.target_height = height;
      ReadSize(object, "target_width", hires.target_width, "target_height", hires.target_height);
    } else if (static_cast<double>(width) * height * hires.scale * hires.scale > kMaxPixels) {
      object.Refuse("scale", "a result of at most 4096 × 4096 pixels");
    }
    object.Whole("steps", hires.steps, 0, kMaxSteps);
    object.Number("denoising_strength", hires.denoising_strength, 0, 1);
    object.Whole("upscale_tile_size", hires.upscale_tile_size, 32, 4096);
    object.Numbers("custom_sigmas", hires.custom_sigmas, hires.custom_sigmas_count, 2, kMaxSteps + 1, 0, kMaxSigma);
    if (hires.enabled && hires.upscaler == SD_HIRES_UPSCALER_MODEL && hires.model_path == nullptr) {
      object.Refuse("model_path", "the path of an upscaler");
    }
  });
}

}  // namespace

GenerationParams GenerationParams::Read(Napi::Object object) {
  GenerationParams result;
  sd_img_gen_params_t& params = result.params;
  sd_img_gen_params_init(&params);

  Options options(object, result.storage);
  options.Text("prompt", params.prompt, kMaxPrompt);
  options.Text("negative_prompt", params.negative_prompt, kMaxPrompt);
  if (params.prompt == nullptr) options.Refuse("prompt", "a text");
  ReadSize(options, "width", params.width, "height", params.height);
  // The library would take the clock for a negative one and not tell which it was.
  if (!options.Has("seed")) options.Refuse("seed", "an integer");
  options.Whole("seed", params.seed, 0, 9007199254740991.0);
  options.Whole("batch_count", params.batch_count, 1, kMaxBatch);
  options.Whole("clip_skip", params.clip_skip, -1, 12);
  ReadSampling(options, params.sample_params);
  options.List("loras", kMaxLoras, [&](Options& element) {
    sd_lora_t lora = {false, 1.0f, nullptr};
    element.Text("path", lora.path, kMaxPath);
    element.Number("weight", lora.multiplier, -100, 100);
    element.Flag("high_noise", lora.is_high_noise);
    if (lora.path == nullptr) element.Refuse("path", "a path");
    result.loras.push_back(lora);
  });
  params.loras = result.loras.data();
  params.lora_count = static_cast<uint32_t>(result.loras.size());

  options.Picture("init_image", params.init_image, 3);
  options.Number("strength", params.strength, 0, 1);
  options.Picture("mask", params.mask_image, 1);
  if (params.mask_image.data != nullptr && params.init_image.data == nullptr) {
    options.Refuse("init_image", "a picture, because there is a mask,");
  }
  options.Pictures("ref_images", params.ref_images, params.ref_images_count, kMaxPictures, result.ref_images);
  options.Text("ref_image_args", params.ref_image_args);
  options.Picture("control_image", params.control_image, 3);
  options.Number("control_strength", params.control_strength, 0, 10);
  options.Picture("ip_adapter_image", params.ip_adapter_image, 3);
  options.Number("ip_adapter_strength", params.ip_adapter_strength, 0, 10);
  options.Nested("photo_maker", [&](Options& photo_maker) {
    photo_maker.Pictures("images", params.pm_params.id_images, params.pm_params.id_images_count, kMaxPictures,
                         result.photo_maker_images);
    photo_maker.Text("id_embed_path", params.pm_params.id_embed_path, kMaxPath);
    photo_maker.Number("style_strength", params.pm_params.style_strength, 0, 100);
  });
  options.Nested("pulid", [&](Options& pulid) {
    pulid.Text("id_embedding_path", params.pulid_params.id_embedding_path, kMaxPath);
    pulid.Number("id_weight", params.pulid_params.id_weight, 0, 10);
  });

  ReadTiling(options, params.vae_tiling_params);
  ReadCache(options, params.cache);
  ReadHires(options, params.hires, params.width, params.height);
  options.Whole("qwen_image_layers", params.qwen_image_layers, 0, 16);
  options.Flag("circular_x", params.circular_x);
  options.Flag("circular_y", params.circular_y);
  options.Nested("preview", [&](Options& preview) {
    preview.Choice("mode", result.preview.mode, PREVIEW_COUNT, sd_preview_name);
    preview.Whole("interval", result.preview.interval, 0, 3600000);
  });
  options.Finish();
  return result;
}
