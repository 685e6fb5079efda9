#pragma once

#include <string>

#include "secret.h"
#include "verdict.h"

// Why this build or this process can't check Unix accounts; empty when it can. Reads no account.
std::string UnixProblem();
bool BuiltWithUnixAccounts();

// Checks a password against the account database (crypt(3), shadow(5)). Blocks for the time of one password hash,
// whether the account exists or not: call it on a thread of its own.
Verdict CheckUnixAccount(const std::string& user, const Secret& password);
