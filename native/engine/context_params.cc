#include "context_params.h"

#include "library.h"

namespace {

constexpr size_t kMaxPath = 4096;       // bytes, PATH_MAX on Linux
constexpr size_t kMaxEmbeddings = 1000;  // each costs a file that is opened at load

}  // namespace

ContextParams ContextParams::Read(Napi::Object object) {
  ContextParams result;
  sd_ctx_params_t& params = result.params;
  sd_ctx_params_init(&params);
  // Not the library's defaults: "auto" may leave a LoRA in the weights for later images; and weights that are read at
  // their first use make the first image slow and its progress unreadable.
  params.lora_apply_mode = LORA_APPLY_AT_RUNTIME;
  params.eager_load = true;

  Options options(object, result.storage);
  options.Text("model", params.model_path, kMaxPath);
  options.Text("diffusion_model", params.diffusion_model_path, kMaxPath);
  options.Text("high_noise_diffusion_model", params.high_noise_diffusion_model_path, kMaxPath);
  options.Text("uncond_diffusion_model", params.uncond_diffusion_model_path, kMaxPath);
  options.Text("clip_l", params.clip_l_path, kMaxPath);
  options.Text("clip_g", params.clip_g_path, kMaxPath);
  options.Text("clip_vision", params.clip_vision_path, kMaxPath);
  options.Text("t5xxl", params.t5xxl_path, kMaxPath);
  options.Text("llm", params.llm_path, kMaxPath);
  options.Text("llm_vision", params.llm_vision_path, kMaxPath);
  options.Text("vae", params.vae_path, kMaxPath);
  options.Text("taesd", params.taesd_path, kMaxPath);
  options.Text("control_net", params.control_net_path, kMaxPath);
  options.Text("ip_adapter", params.ip_adapter_path, kMaxPath);
  options.Text("photo_maker", params.photo_maker_path, kMaxPath);
  options.Text("pulid_weights", params.pulid_weights_path, kMaxPath);
  options.List("embeddings", kMaxEmbeddings, [&](Options& element) {
    sd_embedding_t embedding = {nullptr, nullptr};
    element.Text("name", embedding.name, 255);
    element.Text("path", embedding.path, kMaxPath);
    if (embedding.name == nullptr || embedding.path == nullptr) element.Refuse("name and path", "texts");
    result.embeddings.push_back(embedding);
  });
  params.embeddings = result.embeddings.data();
  params.embedding_count = static_cast<uint32_t>(result.embeddings.size());

  options.Whole("threads", params.n_threads, 1, 256);
  ReadWeightType(options, "weight_type", params.wtype);
  options.Text("tensor_type_rules", params.tensor_type_rules);
  options.Choice("rng", params.rng_type, RNG_TYPE_COUNT, sd_rng_type_name);
  options.Choice("sampler_rng", params.sampler_rng_type, RNG_TYPE_COUNT, sd_rng_type_name);
  options.Choice("prediction", params.prediction, PREDICTION_COUNT, sd_prediction_name);
  options.Choice("lora_apply_mode", params.lora_apply_mode, LORA_APPLY_MODE_COUNT, sd_lora_apply_mode_name);
  options.Choice("vae_format", params.vae_format,
                 {{"auto", SD_VAE_FORMAT_AUTO},
                  {"flux", SD_VAE_FORMAT_FLUX},
                  {"sd3", SD_VAE_FORMAT_SD3},
                  {"flux2", SD_VAE_FORMAT_FLUX2},
                  {"wan", SD_VAE_FORMAT_WAN}});
  options.Text("model_args", params.model_args);

  options.Text("backend", params.backend);
  options.Text("params_backend", params.params_backend);
  options.Text("split_mode", params.split_mode);
  options.Flag("auto_fit", params.auto_fit);
  options.Text("max_vram", params.max_vram);
  options.Flag("stream_layers", params.stream_layers);
  options.Flag("eager_load", params.eager_load);
  options.Flag("mmap", params.enable_mmap);
  options.Flag("flash_attention", params.flash_attn);
  options.Flag("diffusion_flash_attention", params.diffusion_flash_attn);
  options.Flag("diffusion_conv_direct", params.diffusion_conv_direct);
  options.Flag("vae_conv_direct", params.vae_conv_direct);
  options.Flag("taesd_preview_only", params.tae_preview_only);
  options.Flag("force_sdxl_vae_conv_scale", params.force_sdxl_vae_conv_scale);
  options.Finish();

  if (params.model_path == nullptr && params.diffusion_model_path == nullptr) {
    options.Refuse("model or diffusion_model", "a path");
  }
  return result;
}

UpscalerParams UpscalerParams::Read(Napi::Object object) {
  UpscalerParams result;
  result.threads = sd_get_num_physical_cores();
  Options options(object, result.storage);
  options.Text("esrgan", result.esrgan, kMaxPath);
  options.Text("backend", result.backend);
  options.Text("params_backend", result.params_backend);
  options.Whole("threads", result.threads, 1, 256);
  options.Whole("tile_size", result.tile_size, 32, 4096);
  options.Flag("direct", result.direct);
  options.Finish();
  if (result.esrgan == nullptr) options.Refuse("esrgan", "a path");
  return result;
}
