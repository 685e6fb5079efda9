#pragma once

#include <string>

#include "secret.h"
#include "verdict.h"

struct PamRequest {
  std::string service;
  std::string user;
  std::string remote_host;
  std::string tty;         // empty: not set
  std::string config_dir;  // empty: the system's; anything else needs BuiltWithPamConfigDir()
};

bool BuiltWithPam();
bool BuiltWithPamConfigDir();

// Why this service can't be used here; empty when it can. An empty `service` asks about the build alone. libpam would
// take the service "other" for one that has no file, and those rules were not chosen for this server: so a
// service without a file is a problem.
std::string PamProblem(const std::string& service, const std::string& config_dir);

// Authenticates and checks the account through a PAM service. Blocks for as long as its modules like: call it on a
// thread of its own. The delay that PAM asks for after a failure is not slept but returned.
Verdict CheckPamAccount(const PamRequest& request, const Secret& password);
