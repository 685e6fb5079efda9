// auth.node: the JavaScript side of the account checks. Everything here runs on the JavaScript thread; values are
// copied into plain structs before a thread starts. Mirrored by AuthAddon in native/types.ts.

#include <napi.h>

#include <cctype>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <system_error>
#include <vector>

#include "accounts.h"
#include "background.h"
#include "pam_check.h"
#include "secret.h"
#include "unix_check.h"

namespace {

constexpr std::size_t kLongestName = 255;
constexpr std::size_t kLongestPassword = 1024;
constexpr std::size_t kLongestPath = 4095;  // PATH_MAX of Linux without its NUL

[[noreturn]] void Refuse(Napi::Env env, const std::string& message) { throw Napi::TypeError::New(env, message); }

// A string of 1…longest bytes without control characters, which have no place in any name that is looked up or logged.
std::string ReadText(Napi::Env env, Napi::Value value, const char* what, std::size_t longest) {
  if (!value.IsString()) Refuse(env, std::string("Expected a string for ") + what + ".");
  std::string text = value.As<Napi::String>().Utf8Value();
  if (text.empty() || text.size() > longest) {
    Refuse(env, std::string("Expected 1 to ") + std::to_string(longest) + " bytes for " + what + " but received " +
                    std::to_string(text.size()) + ".");
  }
  for (const unsigned char byte : text) {
    if (byte < 0x20 || byte == 0x7f) Refuse(env, std::string("Expected no control characters in ") + what + ".");
  }
  return text;
}

std::string ReadUser(Napi::Env env, Napi::Value value) {
  std::string user = ReadText(env, value, "user", kLongestName);
  // No account has one, and PAM modules make file names of user names.
  if (user.find('/') != std::string::npos) Refuse(env, "Expected no slash in user.");
  return user;
}

std::string ReadService(Napi::Env env, Napi::Value value) {
  std::string service = ReadText(env, value, "service", 64);
  for (const unsigned char byte : service) {
    if (!std::isalnum(byte) && byte != '-' && byte != '_' && byte != '.') {
      Refuse(env, "Expected letters, digits, '-', '_' and '.' in service.");
    }
  }
  if (service[0] == '.') Refuse(env, "Expected service not to begin with '.'.");
  return service;
}

// Empty when the value is undefined.
std::string ReadOptional(Napi::Env env, Napi::Value value, const char* what, std::size_t longest) {
  return value.IsUndefined() ? "" : ReadText(env, value, what, longest);
}

std::string ReadConfigDir(Napi::Env env, Napi::Value value) {
  std::string folder = ReadOptional(env, value, "confDir", kLongestPath);
  if (!folder.empty() && !BuiltWithPamConfigDir()) Refuse(env, "confDir needs Linux-PAM 1.4 or newer.");
  return folder;
}

// Copies the password into memory that is wiped. From a string, Node-API writes straight into that memory. From bytes it
// goes one by one: memcpy leaves it in vector registers, and the dynamic linker saves those on the stack, where nothing
// wipes them, when Node next calls a function for the first time.
Secret ReadPassword(Napi::Env env, Napi::Value value) {
  std::size_t size = 0;
  const bool is_string = value.IsString();
  if (is_string) {
    if (napi_get_value_string_utf8(env, value, nullptr, 0, &size) != napi_ok) throw Napi::Error::New(env);
  } else if (value.IsTypedArray() && value.As<Napi::TypedArray>().TypedArrayType() == napi_uint8_array) {
    size = value.As<Napi::Uint8Array>().ByteLength();
  } else {
    Refuse(env, "Expected a string or a Uint8Array for password.");
  }
  if (size == 0 || size > kLongestPassword) {
    Refuse(env, "Expected 1 to " + std::to_string(kLongestPassword) + " bytes for password but received " +
                    std::to_string(size) + ".");
  }
  Secret password(size);
  if (is_string) {
    const napi_status status = napi_get_value_string_utf8(env, value, password.data(), size + 1, &size);
    if (status != napi_ok) throw Napi::Error::New(env);
  } else {
    const std::uint8_t* from = value.As<Napi::Uint8Array>().Data();
    volatile char* to = password.data();
    for (std::size_t index = 0; index < size; index++) to[index] = static_cast<char>(from[index]);
  }
  // PAM and crypt(3) would silently take what comes before it.
  if (std::memchr(password.data(), '\0', size) != nullptr) Refuse(env, "Expected no NUL byte in password.");
  return password;
}

Napi::Object ReadOptions(const Napi::CallbackInfo& info) {
  if (!info[0].IsObject()) Refuse(info.Env(), "Expected an object of options.");
  return info[0].As<Napi::Object>();
}

Napi::Object ToObject(Napi::Env env, const Verdict& verdict) {
  Napi::Object object = Napi::Object::New(env);
  object.Set("code", verdict.code);
  object.Set("message", verdict.message);
  object.Set("user", verdict.user);
  object.Set("delayMs", Napi::Number::New(env, verdict.delay_ms));
  return object;
}

class PamTask : public Task {
 public:
  PamTask(PamRequest request, Secret password) : request_(std::move(request)), password_(std::move(password)) {}
  void Run() override { verdict_ = CheckPamAccount(request_, password_); }
  Napi::Value Answer(Napi::Env env) override { return ToObject(env, verdict_); }

 private:
  PamRequest request_;
  Secret password_;
  Verdict verdict_;
};

class UnixTask : public Task {
 public:
  UnixTask(std::string user, Secret password) : user_(std::move(user)), password_(std::move(password)) {}
  void Run() override { verdict_ = CheckUnixAccount(user_, password_); }
  Napi::Value Answer(Napi::Env env) override { return ToObject(env, verdict_); }

 private:
  std::string user_;
  Secret password_;
  Verdict verdict_;
};

class LookupTask : public Task {
 public:
  explicit LookupTask(std::string user) : user_(std::move(user)) {}
  void Run() override { account_ = FindAccount(user_); }
  Napi::Value Answer(Napi::Env env) override {
    if (!account_) return env.Null();
    Napi::Object object = Napi::Object::New(env);
    object.Set("name", account_->name);
    object.Set("uid", Napi::Number::New(env, account_->uid));
    object.Set("gid", Napi::Number::New(env, account_->gid));
    return object;
  }

 private:
  std::string user_;
  std::optional<Account> account_;
};

class GroupsTask : public Task {
 public:
  explicit GroupsTask(std::string user) : user_(std::move(user)) {}
  void Run() override { groups_ = FindGroups(user_); }
  Napi::Value Answer(Napi::Env env) override {
    if (!groups_) return env.Null();
    Napi::Array array = Napi::Array::New(env, groups_->size());
    for (std::size_t index = 0; index < groups_->size(); index++) {
      const Group& group = (*groups_)[index];
      Napi::Object object = Napi::Object::New(env);
      object.Set("gid", Napi::Number::New(env, group.gid));
      object.Set("name", group.name.empty() ? env.Null() : Napi::String::New(env, group.name));
      array.Set(static_cast<std::uint32_t>(index), object);
    }
    return array;
  }

 private:
  std::string user_;
  std::optional<std::vector<Group>> groups_;
};

}  // namespace

class AuthAddon : public Napi::Addon<AuthAddon> {
 public:
  AuthAddon(Napi::Env env, Napi::Object exports) : background_(env) {
    const auto flag = [env](bool value) { return Napi::Boolean::New(env, value); };
    DefineAddon(exports, {
        InstanceValue("version", Napi::String::New(env, SDREST_VERSION), napi_enumerable),
        InstanceValue("pamSupport", flag(BuiltWithPam()), napi_enumerable),
        InstanceValue("confDirSupport", flag(BuiltWithPamConfigDir()), napi_enumerable),
        InstanceValue("unixSupport", flag(BuiltWithUnixAccounts()), napi_enumerable),
        InstanceMethod("pamProblem", &AuthAddon::FindPamProblem),
        InstanceMethod("unixProblem", &AuthAddon::FindUnixProblem),
        InstanceMethod("pamAuthenticate", &AuthAddon::PamAuthenticate),
        InstanceMethod("unixAuthenticate", &AuthAddon::UnixAuthenticate),
        InstanceMethod("lookup", &AuthAddon::Lookup),
        InstanceMethod("groupsOf", &AuthAddon::GroupsOf),
        InstanceMethod("peerCredentials", &AuthAddon::PeerCredentials),
    });
  }

 private:
  static Napi::Value TextOrNull(Napi::Env env, const std::string& text) {
    return text.empty() ? env.Null() : Napi::String::New(env, text);
  }

  Napi::Value FindPamProblem(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    const std::string service = info[0].IsUndefined() ? "" : ReadService(env, info[0]);
    return TextOrNull(env, PamProblem(service, ReadConfigDir(env, info[1])));
  }

  Napi::Value FindUnixProblem(const Napi::CallbackInfo& info) { return TextOrNull(info.Env(), UnixProblem()); }

  Napi::Value PamAuthenticate(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    const Napi::Object options = ReadOptions(info);
    PamRequest request;
    request.service = ReadService(env, options.Get("service"));
    request.user = ReadUser(env, options.Get("user"));
    request.remote_host = ReadOptional(env, options.Get("remoteHost"), "remoteHost", kLongestName);
    request.tty = ReadOptional(env, options.Get("tty"), "tty", kLongestName);
    request.config_dir = ReadConfigDir(env, options.Get("confDir"));
    return background_.Start(
        env, std::make_unique<PamTask>(std::move(request), ReadPassword(env, options.Get("password"))));
  }

  Napi::Value UnixAuthenticate(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    const Napi::Object options = ReadOptions(info);
    return background_.Start(env, std::make_unique<UnixTask>(ReadUser(env, options.Get("user")),
                                                             ReadPassword(env, options.Get("password"))));
  }

  Napi::Value Lookup(const Napi::CallbackInfo& info) {
    return background_.Start(info.Env(), std::make_unique<LookupTask>(ReadUser(info.Env(), info[0])));
  }

  Napi::Value GroupsOf(const Napi::CallbackInfo& info) {
    return background_.Start(info.Env(), std::make_unique<GroupsTask>(ReadUser(info.Env(), info[0])));
  }

  Napi::Value PeerCredentials(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    if (!info[0].IsNumber()) Refuse(env, "Expected a file descriptor (an integer) for fd.");
    try {
      const Peer peer = PeerOf(info[0].As<Napi::Number>().Int32Value());
      Napi::Object object = Napi::Object::New(env);
      object.Set("pid", Napi::Number::New(env, peer.pid));
      object.Set("uid", Napi::Number::New(env, peer.uid));
      object.Set("gid", Napi::Number::New(env, peer.gid));
      return object;
    } catch (const std::system_error& error) {
      throw Napi::Error::New(env, error.what());
    }
  }

  Background background_;
};

NODE_API_NAMED_ADDON(auth, AuthAddon)
