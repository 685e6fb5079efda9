#pragma once

#include <optional>
#include <string>
#include <sys/types.h>
#include <utility>
#include <vector>

// Look-ups in the system's account database (NSS). They may ask a directory server and take seconds: call them on a
// thread of their own. All throw std::system_error when the database can't be read.

struct Account {
  std::string name;
  uid_t uid;
  gid_t gid;
  std::string password;  // "x" where the hash is in the shadow database
  std::string shell;
};

struct Group {
  gid_t gid;
  std::string name;  // empty when the group has a number only
};

std::optional<Account> FindAccount(const std::string& user);
std::optional<std::vector<Group>> FindGroups(const std::string& user);

struct Peer {
  pid_t pid;
  uid_t uid;
  gid_t gid;
};

// The process at the other end of a connected Unix socket, as the kernel saw it when it connected. Does not block.
Peer PeerOf(int socket);
