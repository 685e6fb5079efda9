#pragma once

#include <string>
#include <vector>

#include <napi.h>
#include <stable-diffusion.h>

#include "options.h"

// The library that is linked: which it is, what it runs on, which words it knows.

struct Device {
  std::string name;
  std::string description;
};

// To be called before anything else of the library, by each thread that loads the addon. Throws Failure when the library is another version than the
// one that this addon was compiled for: its structs may have another layout, and a wrong one ends in a crash.
void PrepareLibrary();

// Path of the file that was loaded.
std::string LibraryPath();

std::vector<Device> ListDevices();

// Number formats that weights can be stored in. The library names all of ggml's, of which some are for integers, some
// exist only while computing, and some need statistics of the model (an importance matrix) and abort without.
std::vector<std::string> WeightTypes();
void ReadWeightType(Options& options, const char* key, sd_type_t& target);

// Everything that a caller may want to choose from, and the library's defaults. Main thread only.
Napi::Object DescribeLibrary(Napi::Env env);
