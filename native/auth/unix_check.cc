#include "unix_check.h"

#ifdef HAVE_UNIX_ACCOUNTS

#include <cerrno>
#include <crypt.h>
#include <cstring>
#include <ctime>
#include <fcntl.h>
#include <memory>
#include <optional>
#include <shadow.h>
#include <system_error>
#include <unistd.h>

#include "accounts.h"

namespace {

constexpr std::size_t kShadowBuffer = 16384;
constexpr const char* kShadowFile = "/etc/shadow";

struct ShadowEntry {
  std::string hash;
  long last_change = -1, max_days = -1, inactive_days = -1, expires = -1;  // days; -1 is "not set"
  ~ShadowEntry() { Wipe(hash.data(), hash.size()); }
};

int OpenError(const char* file) {
  const int descriptor = open(file, O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) return errno;
  close(descriptor);
  return 0;
}

// Fills `shadow` from the shadow database; false when it has no entry for the user.
bool ReadShadow(const std::string& user, ShadowEntry& shadow) {
  Secret buffer(kShadowBuffer);  // holds the hash
  spwd entry;
  spwd* found = nullptr;
  const int error = getspnam_r(user.c_str(), &entry, buffer.data(), buffer.size(), &found);
  if (found == nullptr) {
    if (error == ERANGE) throw std::system_error(error, std::generic_category(), "The shadow entry is too long");
    return false;
  }
  shadow.hash = entry.sp_pwdp ? entry.sp_pwdp : "";
  shadow.last_change = entry.sp_lstchg;
  shadow.max_days = entry.sp_max;
  shadow.inactive_days = entry.sp_inact;
  shadow.expires = entry.sp_expire;
  return true;
}

// A setting that no password matches, in the method that this system gives to new passwords: what makes an unknown
// user as slow as a known one.
const std::string& DummySetting() {
  static const std::string setting = [] {
#ifdef CRYPT_GENSALT_IMPLEMENTS_DEFAULT_PREFIX
    char made[CRYPT_GENSALT_OUTPUT_SIZE];
    if (crypt_gensalt_rn(nullptr, 0, nullptr, 0, made, sizeof made)) return std::string(made);
#endif
    return std::string("$6$iJ8vCzLr2mXw0PqE$");  // SHA-512, the default of systems without crypt_gensalt
  }();
  return setting;
}

bool SameBytes(const char* left, const char* right, std::size_t size) {
  volatile unsigned char difference = 0;
  for (std::size_t index = 0; index < size; index++) difference = difference | (left[index] ^ right[index]);
  return difference == 0;
}

// Whether the password gives this hash; nothing when the hash is of a method that crypt(3) does not know.
std::optional<bool> HashMatches(const Secret& password, const char* hash) {
  const auto wipe = [](crypt_data* data) {
    Wipe(data, sizeof *data);
    delete data;
  };
  // 32 KiB: too much for a thread's stack on some systems.
  std::unique_ptr<crypt_data, decltype(wipe)> data(new crypt_data(), wipe);
  errno = 0;
  const char* made = crypt_r(password.data(), hash, data.get());
  if (made == nullptr || made[0] == '*') {  // libxcrypt answers "*0" or "*1" where others answer NULL
    if (errno == ERANGE) return false;      // longer than any password it can hash
    return std::nullopt;
  }
  const std::size_t size = std::strlen(made);
  return size == std::strlen(hash) && SameBytes(made, hash, size);
}

bool EndsWith(const std::string& text, const std::string& end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

Verdict Denied(std::string why) { return {"denied", std::move(why), ""}; }

// What the account's own settings say once the password was right. The rules are those of shadow(5).
Verdict CheckSettings(const Account& account, const ShadowEntry& shadow) {
  const long today = static_cast<long>(std::time(nullptr) / 86400);
  if (shadow.expires >= 0 && today >= shadow.expires) {
    return {"account_expired", "the account has expired (shadow field 8; see `chage -E`)", ""};
  }
  if (shadow.last_change == 0) {
    return {"password_expired", "the password must be changed before the next login", ""};
  }
  if (shadow.last_change > 0 && shadow.max_days >= 0 && today - shadow.last_change > shadow.max_days) {
    const long late = today - shadow.last_change - shadow.max_days;
    const bool inactive = shadow.inactive_days >= 0 && late > shadow.inactive_days;
    return {"password_expired", inactive ? "the password expired too long ago to be changed by its owner"
                                         : "the password has expired", ""};
  }
  for (const char* refusing : {"/nologin", "/false"}) {
    if (EndsWith(account.shell, refusing)) return {"account_locked", "the login shell is " + account.shell, ""};
  }
  return {"ok", "", account.name};
}

}  // namespace

bool BuiltWithUnixAccounts() { return true; }

std::string UnixProblem() {
  const int error = OpenError(kShadowFile);
  if (error == 0) return "";
  return std::string(kShadowFile) + " cannot be read by uid " + std::to_string(geteuid()) + " (" +
         std::generic_category().message(error) + "): run the server as root or with the group that owns the file";
}

Verdict CheckUnixAccount(const std::string& user, const Secret& password) try {
  const auto account = FindAccount(user);
  ShadowEntry shadow;
  if (account && !ReadShadow(account->name, shadow)) {
    // "x" says that the hash is in the shadow database, so its absence there is a lack of privilege or of a record.
    // Checked by opening the file: some look-ups answer "no entry" where they mean "no permission".
    if (account->password == "x") {
      if (auto problem = UnixProblem(); !problem.empty()) return {"no_privilege", problem, ""};
    } else {
      shadow.hash = account->password;
    }
  }

  const char* hash = shadow.hash.c_str() + std::strspn(shadow.hash.c_str(), "!");
  const bool locked = hash != shadow.hash.c_str();
  const bool usable = *hash != '\0' && *hash != '*';
  // Every answer takes the time of one hash, whatever the account is.
  const auto match = usable ? HashMatches(password, hash) : std::nullopt;
  if (!match) HashMatches(password, DummySetting().c_str());

  if (!account) return Denied("there is no such account");
  if (shadow.hash.empty()) return Denied("the account has no password");
  if (!usable) return Denied("the account's password is locked");
  if (!match) return Denied("this system's crypt(3) does not know the method of the account's password hash");
  if (!*match) return Denied("the password is wrong");
  if (account->uid == 0) return Denied("accounts with uid 0 may not log in");
  if (locked) return {"account_locked", "the password is locked (see `passwd -u`)", ""};
  return CheckSettings(*account, shadow);
} catch (const std::system_error& error) {
  return {"unavailable", error.what(), ""};
}

#else

bool BuiltWithUnixAccounts() { return false; }

std::string UnixProblem() {
#ifdef __APPLE__
  return "macOS keeps passwords in Open Directory, which crypt(3) cannot check; use PAM";
#else
  return "auth.node was built without crypt.h, libcrypt or shadow.h; install them (Debian: libcrypt-dev, Fedora: "
         "libxcrypt-devel) and run `npm run build:native`";
#endif
}

Verdict CheckUnixAccount(const std::string&, const Secret&) { return {"unavailable", UnixProblem(), ""}; }

#endif
