#pragma once

#include <string>

// The outcome of a check. Any code but "denied", "second_factor", "service_missing", "no_privilege" and "unavailable"
// means that the password was right, so that a stranger learns nothing about an account from it.
struct Verdict {
  std::string code;     // see VerdictCode in native/types.ts
  std::string message;  // for the log, in the words of the system
  std::string user;     // the name as the system spells it; set with "ok" alone
  unsigned delay_ms = 0;  // how long PAM wants the answer to a failure held back
};
