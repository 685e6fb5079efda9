#include "library.h"

#include <dlfcn.h>

#include <climits>
#include <cmath>
#include <cstdlib>
#include <mutex>
#include <set>
#include <sstream>

#include "built_with.h"
#include "failure.h"

namespace {

std::string FolderOf(const std::string& path) { return path.substr(0, path.find_last_of('/')); }

std::string WithoutLinks(const std::string& path) {
  char resolved[PATH_MAX];
  return realpath(path.c_str(), resolved) == nullptr ? path : resolved;
}

// A build of the library whose devices are separate files (libggml-cpu-*.so, libggml-cuda.so…) looks for them beside
// the running program, which is node, and in the working directory, where any user may have put them. They lie beside
// the library (which may be a link to where it is), or in `bin` next to its folder. Builds with everything inside have nothing to load.
void LoadDevices() {
  const std::string path = LibraryPath();
  void* library = dlopen(path.c_str(), RTLD_NOLOAD | RTLD_LAZY);
  if (library == nullptr) return;
  // Functions of ggml, through the library that uses it: ggml's own header is not installed with every build.
  const auto load = reinterpret_cast<void (*)(const char*)>(dlsym(library, "ggml_backend_load_all_from_path"));
  const auto count = reinterpret_cast<size_t (*)()>(dlsym(library, "ggml_backend_dev_count"));
  if (load != nullptr && count != nullptr) {
    for (const std::string& folder : {FolderOf(path), FolderOf(path) + "/../bin", FolderOf(WithoutLinks(path))}) {
      if (count() == 0) load(folder.c_str());
    }
  }
  dlclose(library);
}

template <typename Enum>
Napi::Array Names(Napi::Env env, int count, const char* (*name)(Enum)) {
  Napi::Array names = Napi::Array::New(env);
  for (int value = 0; value < count; value++) names[value] = Napi::String::New(env, name(static_cast<Enum>(value)));
  return names;
}

// The defaults that a caller may want to show. One that depends on the model is infinite, or the number of choices,
// in the library, and null here.
Napi::Object Defaults(Napi::Env env) {
  sd_img_gen_params_t params;
  sd_img_gen_params_init(&params);
  const auto number = [&](double value) {
    return std::isfinite(value) ? Napi::Number::New(env, value).As<Napi::Value>() : env.Null();
  };
  Napi::Object defaults = Napi::Object::New(env);
  defaults["width"] = number(params.width);
  defaults["height"] = number(params.height);
  defaults["steps"] = number(params.sample_params.sample_steps);
  defaults["cfg_scale"] = number(params.sample_params.guidance.txt_cfg);
  defaults["img_cfg_scale"] = number(params.sample_params.guidance.img_cfg);
  defaults["guidance"] = number(params.sample_params.guidance.distilled_guidance);
  defaults["eta"] = number(params.sample_params.eta);
  defaults["flow_shift"] = number(params.sample_params.flow_shift);
  defaults["clip_skip"] = number(params.clip_skip);
  defaults["batch_count"] = number(params.batch_count);
  defaults["strength"] = number(params.strength);
  defaults["control_strength"] = number(params.control_strength);
  defaults["ip_adapter_strength"] = number(params.ip_adapter_strength);
  return defaults;
}

}  // namespace

std::string LibraryPath() {
  Dl_info info;
  return dladdr(reinterpret_cast<void*>(&sd_version), &info) != 0 ? info.dli_fname : "";
}

void PrepareLibrary() {
  const std::string built = SDREST_LIBRARY_VERSION " " SDREST_LIBRARY_COMMIT;
  const std::string found = std::string(sd_version()) + " " + sd_commit();
  if (built != " " && built != found) {
    throw Failure(FailureCode::kUnsupported,
                  "engine.node was built for stable-diffusion.cpp " + built + ", but " + LibraryPath() + " is " + found +
                      ". Build it again: npm run build:native");
  }
  static std::once_flag once;  // the environment and the devices belong to the process, not to one of its threads
  std::call_once(once, [] {
    // A failed assertion of ggml would start a debugger to print where it was.
    setenv("GGML_NO_BACKTRACE", "1", 0);
    LoadDevices();
  });
}

std::vector<Device> ListDevices() {
  std::string text(sd_list_devices(nullptr, 0), '\0');
  sd_list_devices(&text[0], text.size() + 1);
  std::vector<Device> devices;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    const size_t tab = line.find('\t');
    devices.push_back({line.substr(0, tab), tab == std::string::npos ? "" : line.substr(tab + 1)});
  }
  return devices;
}

std::vector<std::string> WeightTypes() {
  static const std::set<std::string> unusable = {"i8",      "i16",    "i32",   "i64",  "f64", "q8_1", "q8_K",
                                                 "iq2_xxs", "iq2_xs", "iq1_s"};
  std::vector<std::string> names;
  for (int type = 0; type < SD_TYPE_COUNT; type++) {
    const char* name = sd_type_name(static_cast<sd_type_t>(type));
    // A type that was removed has a sentence for a name.
    if (name == nullptr || std::string(name).find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789_K") !=
                               std::string::npos) {
      continue;
    }
    if (unusable.count(name) == 0) names.emplace_back(name);
  }
  return names;
}

void ReadWeightType(Options& options, const char* key, sd_type_t& target) {
  const std::vector<std::string> names = WeightTypes();
  size_t position = 0;
  if (options.Choice(key, position, names)) target = str_to_sd_type(names[position].c_str());
}

Napi::Object DescribeLibrary(Napi::Env env) {
  Napi::Object library = Napi::Object::New(env);
  library["version"] = Napi::String::New(env, sd_version());
  library["commit"] = Napi::String::New(env, sd_commit());
  library["path"] = Napi::String::New(env, LibraryPath());
  library["samplers"] = Names(env, SAMPLE_METHOD_COUNT, sd_sample_method_name);
  library["schedulers"] = Names(env, SCHEDULER_COUNT, sd_scheduler_name);
  library["predictions"] = Names(env, PREDICTION_COUNT, sd_prediction_name);
  library["rngs"] = Names(env, RNG_TYPE_COUNT, sd_rng_type_name);
  library["previews"] = Names(env, PREVIEW_COUNT, sd_preview_name);
  library["hires_upscalers"] = Names(env, SD_HIRES_UPSCALER_COUNT, sd_hires_upscaler_name);
  Napi::Array types = Napi::Array::New(env);
  for (const std::string& name : WeightTypes()) types[types.Length()] = Napi::String::New(env, name);
  library["weight_types"] = types;
  library["defaults"] = Defaults(env);
  return library;
}
