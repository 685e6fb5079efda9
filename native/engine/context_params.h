#pragma once

#include <vector>

#include <napi.h>
#include <stable-diffusion.h>

#include "options.h"

// What a model context is made from: files, devices, memory, number formats. A plain struct: any thread may have it.
struct ContextParams {
  sd_ctx_params_t params;
  Storage storage;
  std::vector<sd_embedding_t> embeddings;

  // Main thread only. Throws Failure.
  static ContextParams Read(Napi::Object object);
};

// An upscaler is a context of its own beside the model's.
struct UpscalerParams {
  const char* esrgan = nullptr;
  const char* backend = nullptr;
  const char* params_backend = nullptr;
  int threads = 0;
  int tile_size = 128;
  bool direct = false;
  Storage storage;

  // Main thread only. Throws Failure.
  static UpscalerParams Read(Napi::Object object);
};
