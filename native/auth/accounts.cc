#include "accounts.h"

#include <algorithm>
#include <cerrno>
#include <grp.h>
#include <pwd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <system_error>
#include <unistd.h>

namespace {

constexpr std::size_t kFirstBuffer = 4096;
constexpr std::size_t kLargestBuffer = 1 << 20;  // a group of some ten thousand members
constexpr int kMostGroups = 65536;               // NGROUPS_MAX of Linux

// Calls a get…_r function with a buffer that grows until the entry fits. An entry points into the buffer, so `read`
// gets it before the buffer goes. POSIX lets "no such entry" come back as a number of error codes.
template <typename Entry, typename Call, typename Read>
auto ReadEntry(const char* what, Call call, Read read) -> std::optional<decltype(read(std::declval<Entry&>()))> {
  for (std::size_t size = kFirstBuffer; size <= kLargestBuffer; size *= 2) {
    std::vector<char> buffer(size);
    Entry entry;
    Entry* found = nullptr;
    int error = call(&entry, buffer.data(), buffer.size(), &found);
    if (found != nullptr) return read(*found);
    if (error == ERANGE) continue;
    if (error == 0 || error == ENOENT || error == ESRCH || error == EBADF || error == EPERM) return std::nullopt;
    throw std::system_error(error, std::generic_category(), what);
  }
  throw std::system_error(ERANGE, std::generic_category(), what);
}

#ifdef __APPLE__
using GroupNumber = int;
#else
using GroupNumber = gid_t;
#endif

}  // namespace

std::optional<Account> FindAccount(const std::string& user) {
  return ReadEntry<passwd>(
      "The account database cannot be read",
      [&](passwd* entry, char* buffer, std::size_t size, passwd** found) {
        return getpwnam_r(user.c_str(), entry, buffer, size, found);
      },
      [](const passwd& entry) {
        return Account{entry.pw_name, entry.pw_uid, entry.pw_gid, entry.pw_passwd ? entry.pw_passwd : "",
                       entry.pw_shell ? entry.pw_shell : ""};
      });
}

std::optional<std::vector<Group>> FindGroups(const std::string& user) {
  const auto account = FindAccount(user);
  if (!account) return std::nullopt;

  std::vector<GroupNumber> numbers(64);
  int count = static_cast<int>(numbers.size());
  while (getgrouplist(account->name.c_str(), static_cast<GroupNumber>(account->gid), numbers.data(), &count) < 0) {
    // glibc says in `count` how many there are, macOS does not.
    const int wanted = std::max(count, static_cast<int>(numbers.size()) * 2);
    if (wanted > kMostGroups) {
      throw std::system_error(ERANGE, std::generic_category(), "The groups of the account cannot be read");
    }
    numbers.resize(wanted);
    count = wanted;
  }

  std::vector<Group> groups;
  for (int index = 0; index < count; index++) {
    const gid_t number = numbers[index];
    auto name = ReadEntry<group>(
        "The group database cannot be read",
        [&](group* entry, char* buffer, std::size_t size, group** found) {
          return getgrgid_r(number, entry, buffer, size, found);
        },
        [](const group& entry) { return std::string(entry.gr_name); });
    groups.push_back({number, name.value_or("")});
  }
  return groups;
}

Peer PeerOf(int socket) {
#ifdef SO_PEERCRED
  ucred credentials{};
  socklen_t size = sizeof credentials;
  int failed = getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &credentials, &size);
  Peer peer{credentials.pid, credentials.uid, credentials.gid};
#else
  Peer peer{};
  int failed = getpeereid(socket, &peer.uid, &peer.gid);
#ifdef LOCAL_PEERPID
  socklen_t size = sizeof peer.pid;
  if (!failed) failed = getsockopt(socket, SOL_LOCAL, LOCAL_PEERPID, &peer.pid, &size);
#endif
#endif
  if (failed) throw std::system_error(errno, std::generic_category(), "The peer of the socket cannot be read");
  // What the kernel says of a socket that has no peer process, a TCP connection for example.
  if (peer.uid == static_cast<uid_t>(-1)) {
    throw std::system_error(ENOTCONN, std::generic_category(), "The socket is not a connected Unix socket");
  }
  return peer;
}
