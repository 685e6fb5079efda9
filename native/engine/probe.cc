// Compiled and run when CMake configures: does the installed header have the interface that the binding uses, and which
// version is the library?

#include <cstdio>
#include <type_traits>

#include <stable-diffusion.h>

template <typename Function, typename Signature>
constexpr bool is = std::is_same_v<Function, Signature*>;

static_assert(is<decltype(&generate_image), bool(sd_ctx_t*, const sd_img_gen_params_t*, sd_image_t**, int*)>);
static_assert(is<decltype(&upscale), bool(upscaler_ctx_t*, sd_image_t, uint32_t, sd_image_t**, int*)>);
static_assert(is<decltype(&new_upscaler_ctx), upscaler_ctx_t*(const char*, bool, int, int, const char*, const char*)>);
static_assert(is<decltype(&sd_cancel_generation), void(sd_ctx_t*, sd_cancel_mode_t)>);
static_assert(is<decltype(&sd_ctx_load_control_net), bool(sd_ctx_t*, const char*)>);
static_assert(is<sd_preview_cb_t, void(int, int, sd_image_t*, bool, void*)>);

int main() {
  sd_ctx_params_t context;
  sd_ctx_params_init(&context);
  sd_img_gen_params_t image;
  sd_img_gen_params_init(&image);
  // The youngest members that the binding sets: an older header does not have them.
  const bool used = context.eager_load || context.auto_fit || context.ip_adapter_path != nullptr ||
                    image.pulid_params.id_embedding_path != nullptr || image.circular_x ||
                    image.hires.custom_sigmas != nullptr || image.cache.mode == SD_CACHE_SPECTRUM ||
                    image.ip_adapter_image.data != nullptr;
  std::printf("version=%s\ncommit=%s\n", sd_version(), sd_commit());
  return used ? 1 : 0;
}
