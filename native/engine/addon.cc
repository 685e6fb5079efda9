#include <napi.h>

#include "engine.h"
#include "failure.h"
#include "library.h"

// engine.node. Nothing here is global to the process: each environment (the main one, each worker) that loads the
// addon gets an object of its own. What is global is the library, and `Session` guards it.
class EngineAddon : public Napi::Addon<EngineAddon> {
 public:
  EngineAddon(Napi::Env env, Napi::Object exports) {
    try {
      PrepareLibrary();
    } catch (const Failure& failure) {
      throw ToError(env, failure);
    }
    DefineAddon(exports, {
                             InstanceValue("version", Napi::String::New(env, SDREST_VERSION), napi_enumerable),
                             InstanceValue("library", DescribeLibrary(env), napi_enumerable),
                             InstanceValue("Engine", Engine::Define(env), napi_enumerable),
                             InstanceMethod<&EngineAddon::Devices>("devices", napi_enumerable),
                             InstanceMethod<&EngineAddon::SystemInfo>("systemInfo", napi_enumerable),
                         });
  }

 private:
  Napi::Value Devices(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    Napi::Array list = Napi::Array::New(env);
    try {
      Guard(FailureCode::kUnsupported, "Listing the devices", [&] {
        for (const Device& device : ListDevices()) {
          Napi::Object entry = Napi::Object::New(env);
          entry["name"] = Napi::String::New(env, device.name);
          entry["description"] = Napi::String::New(env, device.description);
          list[list.Length()] = entry;
        }
      });
    } catch (const Failure& failure) {
      throw ToError(env, failure);
    }
    return list;
  }

  Napi::Value SystemInfo(const Napi::CallbackInfo& info) {
    return Napi::String::New(info.Env(), sd_get_system_info());
  }
};

NODE_API_NAMED_ADDON(engine, EngineAddon)
