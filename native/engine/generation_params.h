#pragma once

#include <vector>

#include <napi.h>
#include <stable-diffusion.h>

#include "options.h"

// How a generation is watched, beside what is drawn.
struct PreviewParams {
  preview_t mode = PREVIEW_NONE;
  // Milliseconds between two previews at least: each costs a decoding.
  int interval = 1000;
};

// Everything that decides what a picture looks like. A plain struct: any thread may have it.
//
// The ranges are those in which the library draws what was asked. Outside of them it aborts the process (width 0),
// throws (100000², width −64), draws something else in silence (1×1 becomes 64×64) or eats memory until it is killed
// (a billion steps).
struct GenerationParams {
  sd_img_gen_params_t params;
  PreviewParams preview;
  Storage storage;
  std::vector<sd_lora_t> loras;
  std::vector<sd_image_t> ref_images;
  std::vector<sd_image_t> photo_maker_images;

  // Main thread only. Throws Failure.
  static GenerationParams Read(Napi::Object object);
};
