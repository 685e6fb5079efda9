/**
 * Environment variables that an engine may see: what finds libraries, devices and temporary files, and what tunes the
 * backends. The rest stays here, above all the secrets of the server (`SDREST_*`): an engine reads files of strangers.
 */
const allowedNames = new Set([
  'PATH', 'HOME', 'USER', 'LANG', 'TZ', 'TMPDIR', 'TEMP', 'TMP', 'XDG_CACHE_HOME', 'XDG_CONFIG_HOME', 'XDG_DATA_DIRS',
  'XDG_RUNTIME_DIR', 'LD_LIBRARY_PATH', 'SystemRoot', 'windir', 'LOCALAPPDATA', 'ProgramData'
])
const allowedPrefixes = [
  'LC_', 'DYLD_', 'GGML_', 'OMP_', 'CUDA_', 'NVIDIA_', 'HIP_', 'HSA_', 'ROCR_', 'ROCM_', 'AMD_', 'VK_', 'MESA_',
  'RADV_', 'MTL_', 'METAL_', 'SYCL_', 'ONEAPI_', 'ZE_', 'MUSA_', 'ASCEND_'
]

/** Folders of the user of the server, which another one cannot use. */
const ownNames = new Set([
  'HOME', 'USER', 'TMPDIR', 'TEMP', 'TMP', 'XDG_CACHE_HOME', 'XDG_CONFIG_HOME', 'XDG_RUNTIME_DIR'
])

/** @param user the user that the engine becomes. */
export function engineEnvironment (environment: NodeJS.ProcessEnv, user?: string): NodeJS.ProcessEnv {
  const allowed = Object.entries(environment).filter(([name]) =>
    (allowedNames.has(name) && !(user !== undefined && ownNames.has(name))) ||
    allowedPrefixes.some((prefix) => name.startsWith(prefix)))
  // Without it ggml starts a debugger when an assertion fails, and the process hangs in it.
  return { ...Object.fromEntries(allowed), GGML_NO_BACKTRACE: '1' }
}
