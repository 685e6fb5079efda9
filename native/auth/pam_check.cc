#include "pam_check.h"

#ifdef HAVE_PAM

#if __has_include(<security/pam_appl.h>)
#include <security/pam_appl.h>
#else
#include <pam/pam_appl.h>
#endif

#include <algorithm>
#include <cctype>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <sys/stat.h>
#include <system_error>
#include <unistd.h>
#include <vector>

#include "accounts.h"

namespace {

constexpr std::size_t kLongestText = 512;

// What the conversation functions share with the check. Lives on the stack of the check's thread; libpam calls back
// on that thread only.
struct Conversation {
  const Secret& password;
  bool answered = false;
  bool asked_for_more = false;
  unsigned delay_ms = 0;
  std::string text = "";  // the last thing a module wanted to tell the user, for the log
};

// Answers one hidden prompt with the password. A second prompt, or one with echo, is a second factor (or a wish for a
// user name): there is no person to ask, and giving the password again could put it where it is shown.
int Converse(int count, const pam_message** messages, pam_response** responses, void* data) {
  auto& conversation = *static_cast<Conversation*>(data);
  if (count <= 0 || count > PAM_MAX_NUM_MSG) return PAM_CONV_ERR;
  // libpam frees it with free().
  auto* replies = static_cast<pam_response*>(std::calloc(count, sizeof(pam_response)));
  if (replies == nullptr) return PAM_BUF_ERR;

  int result = PAM_SUCCESS;
  for (int index = 0; index < count && result == PAM_SUCCESS; index++) {
    const pam_message& message = *messages[index];
    if (message.msg_style == PAM_TEXT_INFO || message.msg_style == PAM_ERROR_MSG) {
      if (message.msg != nullptr) conversation.text.assign(message.msg, strnlen(message.msg, kLongestText));
    } else if (message.msg_style == PAM_PROMPT_ECHO_OFF && !conversation.answered) {
      conversation.answered = true;
      replies[index].resp = strdup(conversation.password.data());
      if (replies[index].resp == nullptr) result = PAM_BUF_ERR;
    } else {
      conversation.asked_for_more = true;
      result = PAM_CONV_ERR;
    }
  }
  if (result == PAM_SUCCESS) {
    *responses = replies;
    return result;
  }
  for (int index = 0; index < count; index++) {
    if (replies[index].resp == nullptr) continue;
    Wipe(replies[index].resp, std::strlen(replies[index].resp));
    std::free(replies[index].resp);
  }
  std::free(replies);
  return result;
}

#ifdef PAM_FAIL_DELAY
// libpam calls this instead of sleeping, also after a success (then with 0).
void TakeDelay(int, unsigned microseconds, void* data) {
  static_cast<Conversation*>(data)->delay_ms = microseconds / 1000;
}
#endif

// pam_unix sets SIGCHLD to its default for the whole process while it waits for its helper, and puts back what it
// found. Two checks at once can put back each other's default, and a child of Node that ends meanwhile is missed: Node
// would never learn of the end of an engine. So the last check puts Node's handler back and lets it look again.
class ChildSignalGuard {
 public:
  ChildSignalGuard() {
    const std::lock_guard<std::mutex> lock(mutex_);
    struct sigaction now;
    if (sigaction(SIGCHLD, nullptr, &now) == 0 && now.sa_handler != SIG_DFL) handler_ = now;
  }
  ~ChildSignalGuard() {
    const std::lock_guard<std::mutex> lock(mutex_);
    struct sigaction now;
    if (handler_.sa_handler == SIG_DFL || sigaction(SIGCHLD, nullptr, &now) != 0) return;
    if (now.sa_handler == SIG_DFL) sigaction(SIGCHLD, &handler_, nullptr);
    kill(getpid(), SIGCHLD);
  }

 private:
  static std::mutex mutex_;
  static struct sigaction handler_;
};
std::mutex ChildSignalGuard::mutex_;
struct sigaction ChildSignalGuard::handler_;

// Codes that mean the same in both phases; the others say no without telling a stranger why.
const char* CodeOf(int result, bool account_phase) {
  switch (result) {
    case PAM_SUCCESS:
      return "ok";
    case PAM_ACCT_EXPIRED:
      return "account_expired";
    case PAM_NEW_AUTHTOK_REQD:
    case PAM_AUTHTOK_EXPIRED:
    case PAM_CRED_EXPIRED:
      return "password_expired";
    case PAM_PERM_DENIED:
      return account_phase ? "account_locked" : "denied";
    case PAM_AUTH_ERR:
    case PAM_USER_UNKNOWN:
    case PAM_MAXTRIES:
      return "denied";
    default:  // a module that is missing, fails or can't reach its server
      return "unavailable";
  }
}

// Fills in the account that PAM let in, by the one name that it has in the account database of this machine: a directory
// may know several spellings. Root is refused by its number, whatever its name.
void AdmitAccount(const std::string& user, Verdict& verdict) try {
  const auto account = FindAccount(user);
  if (account && account->uid == 0) {
    verdict.code = "denied";
    verdict.message = "accounts with uid 0 may not log in";
    return;
  }
  verdict.user = account ? account->name : user;
} catch (const std::system_error& error) {
  verdict.code = "unavailable";
  verdict.message = error.what();
}

int Start(const PamRequest& request, const pam_conv* conversation, pam_handle_t** handle) {
#ifdef HAVE_PAM_START_CONFDIR
  if (!request.config_dir.empty()) {
    return pam_start_confdir(request.service.c_str(), request.user.c_str(), conversation, request.config_dir.c_str(),
                             handle);
  }
#endif
  return pam_start(request.service.c_str(), request.user.c_str(), conversation, handle);
}

int SetItems(pam_handle_t* handle, const PamRequest& request) {
  int result = PAM_SUCCESS;
  if (!request.remote_host.empty()) result = pam_set_item(handle, PAM_RHOST, request.remote_host.c_str());
  if (result == PAM_SUCCESS && !request.tty.empty()) result = pam_set_item(handle, PAM_TTY, request.tty.c_str());
#ifdef PAM_FAIL_DELAY
  if (result == PAM_SUCCESS) {
    result = pam_set_item(handle, PAM_FAIL_DELAY, reinterpret_cast<const void*>(&TakeDelay));
  }
#endif
  return result;
}

}  // namespace

bool BuiltWithPam() { return true; }

bool BuiltWithPamConfigDir() {
#ifdef HAVE_PAM_START_CONFDIR
  return true;
#else
  return false;
#endif
}

std::string PamProblem(const std::string& service, const std::string& config_dir) {
  if (service.empty()) return "";
  std::vector<std::string> folders{"/etc/pam.d", "/usr/lib/pam.d", "/usr/etc/pam.d", "/usr/local/etc/pam.d"};
  if (!config_dir.empty()) folders = {config_dir};
  std::string name = service;  // libpam looks for it in lower case
  std::transform(name.begin(), name.end(), name.begin(), [](unsigned char letter) { return std::tolower(letter); });
  for (const auto& folder : folders) {
    struct stat status;
    if (stat((folder + "/" + name).c_str(), &status) == 0 && S_ISREG(status.st_mode)) return "";
  }
  return "there is no PAM service file " + folders[0] + "/" + name +
         "; create it, for example with the lines `auth required pam_unix.so` and `account required pam_unix.so`";
}

Verdict CheckPamAccount(const PamRequest& request, const Secret& password) {
  if (auto problem = PamProblem(request.service, request.config_dir); !problem.empty()) {
    return {"service_missing", problem, ""};
  }

  const ChildSignalGuard guard;
  Conversation conversation{password};
  const pam_conv callbacks{Converse, &conversation};
  pam_handle_t* handle = nullptr;
  int result = Start(request, &callbacks, &handle);
  if (result != PAM_SUCCESS) {
    return {"unavailable", "PAM cannot start the service " + request.service + ": " + pam_strerror(handle, result), ""};
  }

  const char* phase = "set-up";
  bool account_phase = false;
  result = SetItems(handle, request);
  if (result == PAM_SUCCESS) {
    phase = "authentication";
    result = pam_authenticate(handle, PAM_DISALLOW_NULL_AUTHTOK);
  }
  if (result == PAM_SUCCESS) {
    phase = "account check";
    account_phase = true;
    result = pam_acct_mgmt(handle, PAM_DISALLOW_NULL_AUTHTOK);
  }

  Verdict verdict;
  verdict.code = CodeOf(result, account_phase);
  if (result == PAM_SUCCESS) {
    const void* name = nullptr;
    pam_get_item(handle, PAM_USER, &name);
    AdmitAccount(name != nullptr ? static_cast<const char*>(name) : request.user, verdict);
  } else {
    verdict.message = std::string(phase) + ": " + pam_strerror(handle, result);
    if (conversation.asked_for_more) {
      verdict.code = "second_factor";
      verdict.message += " (the service asked for more than the password)";
    }
    if (!conversation.text.empty()) verdict.message += " (" + conversation.text + ")";
    if (verdict.code == "denied" && geteuid() != 0) {
      verdict.message += " (this process is not root: pam_unix lets it check no account but its own)";
    }
    verdict.delay_ms = conversation.delay_ms;
  }
  pam_end(handle, result);  // wipes and frees what the modules kept
  return verdict;
}

#else

bool BuiltWithPam() { return false; }
bool BuiltWithPamConfigDir() { return false; }

std::string PamProblem(const std::string&, const std::string&) {
  return "auth.node was built without PAM; install its headers (Debian: libpam0g-dev, Fedora: pam-devel) and run "
         "`npm run build:native`";
}

Verdict CheckPamAccount(const PamRequest&, const Secret&) { return {"unavailable", PamProblem("", ""), ""}; }

#endif
