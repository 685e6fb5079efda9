import { authMethods, permissions } from './permissions.ts'

/**
 * The one table of options. The command line, the SDREST_* environment, the configuration file, `--help` and
 * docs/configuration.md are all made from it; nothing else in the program knows where a value came from.
 */

type Kind = 'string' | 'path' | 'host' | 'integer' | 'boolean' | 'list' | 'paths'

export interface Definition {
  kind: Kind
  group: 'Server' | 'Authentication' | 'Models' | 'Engine' | 'Jobs' | 'Data' | 'Output'
  describe: string
  default?: string | number | boolean | readonly string[]
  choices?: readonly string[]
  minimum?: number
  maximum?: number
  /** Characters of one string; 4096 unless said. */
  maxLength?: number
  /** Never printed. */
  secret?: boolean
}

// The table stays short enough to be read: an option takes a line, its description the next one.
/* eslint-disable @stylistic/object-curly-newline, @stylistic/object-property-newline */
export const optionTable = {
  host: { kind: 'host', group: 'Server', default: '127.0.0.1', maxLength: 253, describe: 'Address to listen on' },
  port: { kind: 'integer', group: 'Server', default: 8080, minimum: 0, maximum: 65535,
    describe: 'Port to listen on; 0 takes a free one' },
  'tls-cert': { kind: 'path', group: 'Server',
    describe: 'PEM file with the certificate chain; turns HTTPS on (read again on SIGHUP)' },
  'tls-key': { kind: 'path', group: 'Server', describe: 'PEM file with the private key of --tls-cert' },
  'metrics-listen': { kind: 'string', group: 'Server', maxLength: 300,
    describe: 'host:port where Prometheus finds /metrics without credentials, besides GET /metrics with system:read' },
  'trust-proxy': { kind: 'list', group: 'Server', default: [],
    describe: 'Addresses or networks of reverse proxies whose X-Forwarded-* headers count' },
  'allowed-hosts': { kind: 'list', group: 'Server', default: [],
    describe: 'Host names this server answers for besides its own address; any when empty and authentication is on' },
  'base-path': { kind: 'string', group: 'Server', maxLength: 200,
    describe: 'Path below which a proxy shows this server, for example /draw; with or without it a request is taken' },
  'cors-origins': { kind: 'list', group: 'Server', default: [],
    describe: 'Web origins whose pages may call the API, for example https://ui.example' },
  compat: { kind: 'list', group: 'Server', default: ['openai', 'a1111'], choices: ['openai', 'a1111'],
    describe: 'APIs of other programs to speak besides: openai (/v1) and a1111 (/sdapi/v1); empty for neither' },
  'shutdown-timeout': { kind: 'integer', group: 'Server', default: 30, minimum: 0, maximum: 3600,
    describe: 'Seconds that the running job has to finish after SIGTERM' },

  auth: { kind: 'string', group: 'Authentication', default: 'none', choices: authMethods,
    describe: 'How callers prove who they are' },
  'jwt-secret': { kind: 'string', group: 'Authentication', secret: true, maxLength: 1024,
    describe: 'Secret that signs access tokens, 32 bytes or more; --jwt-secret-file keeps it out of ps' },
  'jwt-secret-file': { kind: 'path', group: 'Authentication',
    describe: 'File that holds the secret; without either one is made and kept in --auth-data-dir' },
  'jwt-expiration': { kind: 'integer', group: 'Authentication', default: 60, minimum: 1, maximum: 43200,
    describe: 'Lifetime of an access token in minutes' },
  'refresh-expiration': { kind: 'integer', group: 'Authentication', default: 30, minimum: 1, maximum: 365,
    describe: 'Days after which an unused session ends' },
  'session-days': { kind: 'integer', group: 'Authentication', default: 90, minimum: 1, maximum: 3650,
    describe: 'Days after the login when a session ends, however often it is refreshed' },
  'public-paths': { kind: 'list', group: 'Authentication', default: [],
    describe: 'Paths that need no credentials, with all below them; also METHOD:/path, and !/path to close one' },
  'enable-guest-access': { kind: 'boolean', group: 'Authentication', default: false,
    describe: 'Callers without credentials act as the guest' },
  'guest-permissions': { kind: 'list', group: 'Authentication', default: ['models:read', 'queue:read'],
    choices: permissions, describe: 'What the guest may do' },
  'pam-service-name': { kind: 'string', group: 'Authentication', default: 'stable-diffusion-rest', maxLength: 64,
    describe: 'PAM service of --auth pam' },
  'admin-users': { kind: 'list', group: 'Authentication', default: [],
    describe: 'System accounts that are administrators (unix, pam)' },
  'admin-groups': { kind: 'list', group: 'Authentication', default: [],
    describe: 'System groups whose members are administrators (unix, pam)' },
  'allowed-groups': { kind: 'list', group: 'Authentication', default: [],
    describe: 'System groups whose members may log in (unix, pam); all users when empty' },
  'allow-insecure-bind': { kind: 'boolean', group: 'Authentication', default: false,
    describe: 'Let --auth none listen on an address that others can reach' },
  'signed-url-minutes': { kind: 'integer', group: 'Authentication', default: 60, minimum: 1, maximum: 10_080,
    describe: 'Minutes for which a link to an image counts that /v1 answers for response_format url' },
  'rate-limit': { kind: 'integer', group: 'Authentication', default: 600, minimum: 1, maximum: 1_000_000,
    describe: 'Requests a minute for each principal or address' },
  'login-rate-limit': { kind: 'integer', group: 'Authentication', default: 20, minimum: 1, maximum: 100_000,
    describe: 'Logins, refreshes and unknown URLs a minute for each address' },

  'models-dir': { kind: 'paths', group: 'Models', default: [],
    describe: 'Folder with models, searched with its subfolders; may be given more than once' },
  'checkpoints-dir': { kind: 'paths', group: 'Models', default: [], describe: 'Folder with checkpoints only' },
  'diffusion-dir': { kind: 'paths', group: 'Models', default: [],
    describe: 'Folder with diffusion models only (no text encoder, no VAE inside)' },
  'lora-dir': { kind: 'paths', group: 'Models', default: [], describe: 'Folder with LoRAs only' },
  'vae-dir': { kind: 'paths', group: 'Models', default: [], describe: 'Folder with VAEs only' },
  'controlnet-dir': { kind: 'paths', group: 'Models', default: [], describe: 'Folder with ControlNets only' },
  'upscaler-dir': { kind: 'paths', group: 'Models', default: [], describe: 'Folder with ESRGAN upscalers only' },
  'embeddings-dir': { kind: 'paths', group: 'Models', default: [], describe: 'Folder with embeddings only' },
  'text-encoders-dir': { kind: 'paths', group: 'Models', default: [], describe: 'Folder with text encoders only' },
  'model-alias': { kind: 'list', group: 'Models', default: [], maxLength: 600,
    describe: 'NAME=MODEL: the model that /v1 and /sdapi/v1 take for this name; * is any name without a model' },
  'pull-hosts': { kind: 'list', group: 'Models', default: [],
    describe: 'Hosts (or host:port) to pull models from over http or from private addresses' },
  'max-pull-size': { kind: 'integer', group: 'Models', default: 102_400, minimum: 1, maximum: 10_000_000,
    describe: 'Largest file that may be pulled, in MiB' },
  'hf-endpoint': { kind: 'string', group: 'Models', default: 'https://huggingface.co', maxLength: 1024,
    describe: 'Address of the Hugging Face hub, or of its mirror: where hf:owner/repository/file is' },
  'hf-token': { kind: 'string', group: 'Models', secret: true,
    describe: 'Token that is sent to --hf-endpoint, and nowhere else; better given by SDREST_HF_TOKEN' },
  'pull-tokens-file': { kind: 'path', group: 'Models',
    describe: 'File of lines "host: token" for pulls from other hosts, readable by its owner alone' },

  'idle-unload': { kind: 'integer', group: 'Engine', default: 0, minimum: 0, maximum: 10_080,
    describe: 'Minutes without a job after which an engine frees the memory of its model; 0 is never' },
  engine: { kind: 'string', group: 'Engine', default: 'auto', choices: ['auto', 'native', 'portable'],
    describe: 'What draws: the addon that was built here, or the prebuilt package' },
  'engine-user': { kind: 'string', group: 'Engine', maxLength: 64,
    describe: 'System user that the engine runs as, apart from accounts and queue (Linux)' },
  threads: { kind: 'integer', group: 'Engine', default: 0, minimum: 0, maximum: 256,
    describe: 'CPU threads of the engine; 0 chooses, and leaves one of up to four processors free' },
  device: { kind: 'string', group: 'Engine', default: 'auto', maxLength: 64,
    describe: 'Device of the engine: auto, cpu, gpu or a name that doctor lists' },
  devices: { kind: 'list', group: 'Engine', default: [], maxLength: 64,
    describe: 'Several devices that share the queue, for example cuda0,cuda1' },
  'flash-attention': { kind: 'boolean', group: 'Engine', default: false,
    describe: 'Attention that needs less memory; faster on most graphics cards, slower on some' },
  'offload-to-cpu': { kind: 'boolean', group: 'Engine', default: false,
    describe: 'Keep weights in main memory until they are needed: slower, for small graphics cards' },
  'vae-on-cpu': { kind: 'boolean', group: 'Engine', default: false,
    describe: 'Decode images on the processor: slower, saves memory of the graphics card' },
  'clip-on-cpu': { kind: 'boolean', group: 'Engine', default: false,
    describe: 'Read prompts on the processor: slower, saves memory of the graphics card' },
  'engine-timeout': { kind: 'integer', group: 'Engine', default: 600, minimum: 5, maximum: 86400,
    describe: 'Seconds without a sign of life after which a running engine counts as hung' },
  'cancel-grace': { kind: 'integer', group: 'Engine', default: 5, minimum: 0, maximum: 600,
    describe: 'Seconds an engine has to obey a cancel before it is killed' },

  'queue-capacity': { kind: 'integer', group: 'Jobs', default: 1000, minimum: 1, maximum: 1_000_000,
    describe: 'Jobs that may wait' },
  'queue-per-owner': { kind: 'integer', group: 'Jobs', default: 100, minimum: 1, maximum: 1_000_000,
    describe: 'Jobs that may wait for one owner; guests are counted by address' },
  'queue-inputs-size': { kind: 'integer', group: 'Jobs', default: 8192, minimum: 1, maximum: 1_000_000_000,
    describe: 'MiB of images on the disk that came with jobs which have not ended' },
  'queue-inputs-per-owner': { kind: 'integer', group: 'Jobs', default: 1024, minimum: 1, maximum: 1_000_000_000,
    describe: 'MiB of such images for one owner' },
  'overtake-limit': { kind: 'integer', group: 'Jobs', default: 8, minimum: 0, maximum: 1000,
    describe: 'Jobs for the model in memory that may overtake a waiting one' },
  'keep-jobs': { kind: 'integer', group: 'Jobs', default: 10_000, minimum: 1, maximum: 10_000_000,
    describe: 'Ended jobs that are kept with their images; beyond that the owner who has most loses the oldest' },
  'keep-jobs-per-owner': { kind: 'integer', group: 'Jobs', default: 0, minimum: 0, maximum: 10_000_000,
    describe: 'Ended jobs that are kept for one owner, 0 for all of --keep-jobs' },
  'keep-days': { kind: 'integer', group: 'Jobs', default: 30, minimum: 1, maximum: 36_500,
    describe: 'Days for which an ended job is kept with its images' },
  'keep-outputs-size': { kind: 'integer', group: 'Jobs', default: 20_480, minimum: 0, maximum: 1_000_000_000,
    describe: 'MiB of all kept images, 0 for any; beyond it the largest owner loses the oldest images' },
  'keep-outputs-per-owner': { kind: 'integer', group: 'Jobs', default: 0, minimum: 0, maximum: 1_000_000_000,
    describe: 'MiB of the kept images of one owner, 0 for all of --keep-outputs-size' },
  'keep-abandoned-jobs': { kind: 'boolean', group: 'Jobs', default: false,
    describe: 'Finish a job of /v1 or /sdapi/v1 when the client that waits for it leaves, instead of cancelling it' },
  'webhook-hosts': { kind: 'list', group: 'Jobs', default: [],
    describe: 'Hosts (or host:port) that webhooks may call; private addresses only if listed. Empty disables' },
  'webhook-secret': { kind: 'string', group: 'Jobs', secret: true, maxLength: 1024,
    describe: 'Secret that signs webhooks, at least 32 characters; better given by SDREST_WEBHOOK_SECRET' },
  'max-width': { kind: 'integer', group: 'Jobs', default: 2048, minimum: 64, maximum: 8192,
    describe: 'Widest image in pixels' },
  'max-height': { kind: 'integer', group: 'Jobs', default: 2048, minimum: 64, maximum: 8192,
    describe: 'Highest image in pixels' },
  'max-pixels': { kind: 'integer', group: 'Jobs', default: 2048 * 2048, minimum: 64 * 64, maximum: 4096 * 4096,
    describe: 'Most pixels of one image that is drawn' },
  'max-steps': { kind: 'integer', group: 'Jobs', default: 150, minimum: 1, maximum: 1000,
    describe: 'Most sampling steps' },
  'max-batch': { kind: 'integer', group: 'Jobs', default: 8, minimum: 1, maximum: 64,
    describe: 'Most images of one job' },
  'max-work': { kind: 'integer', group: 'Jobs', default: 1000, minimum: 1, maximum: 1_000_000,
    describe: 'Most work of one job in megapixel steps: width × height × steps × images / 1,000,000' },
  'max-prompt-length': { kind: 'integer', group: 'Jobs', default: 8000, minimum: 1, maximum: 16_000,
    describe: 'Longest prompt in characters' },
  'max-loras': { kind: 'integer', group: 'Jobs', default: 8, minimum: 0, maximum: 64,
    describe: 'Most LoRAs of one job' },
  'max-upload-size': { kind: 'integer', group: 'Jobs', default: 20, minimum: 1, maximum: 64,
    describe: 'Largest image that may be sent, in MiB' },
  'max-upload-pixels': { kind: 'integer', group: 'Jobs', default: 8192 * 4096, minimum: 64 * 64, maximum: 16384 * 16384,
    describe: 'Most pixels of an image that is sent' },
  'max-upscaled-pixels': { kind: 'integer', group: 'Jobs', default: 8192 * 8192, minimum: 64 * 64, maximum: 8192 * 8192,
    describe: 'Most pixels of an upscaled image' },

  'data-dir': { kind: 'path', group: 'Data',
    describe: 'Folder of the queue and the images (default: stable-diffusion-rest in the XDG data directory)' },
  'auth-data-dir': { kind: 'path', group: 'Data',
    describe: 'Folder of accounts and secrets (default: auth in --data-dir)' },

  verbose: { kind: 'boolean', group: 'Output', default: false, describe: 'Log the decision made for each request' },
  'log-level': { kind: 'string', group: 'Output', default: 'info',
    choices: ['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent'],
    describe: 'Least severe log line that is written' }
} as const satisfies Record<string, Definition>
/* eslint-enable @stylistic/object-curly-newline, @stylistic/object-property-newline */

export type OptionName = keyof typeof optionTable
export const optionNames = Object.keys(optionTable) as OptionName[]

type CamelCase<Name extends string> = Name extends `${infer Head}-${infer Tail}`
  ? `${Head}${Capitalize<CamelCase<Tail>>}`
  : Name
type ValueOf<D> = D extends { kind: 'integer' } ? number
  : D extends { kind: 'boolean' } ? boolean
    : D extends { kind: 'list' | 'paths' } ? readonly string[]
      : D extends { choices: readonly (infer Choice)[] } ? Choice : string
type OrUndefined<D> = D extends { default: unknown } ? never : undefined

/** Every option with its value, frozen; names in camelCase. */
export type Options = Readonly<{
  [Name in OptionName as CamelCase<Name>]: ValueOf<typeof optionTable[Name]> | OrUndefined<typeof optionTable[Name]>
}>

/** The environment variable of an option: `jwt-secret` → `SDREST_JWT_SECRET`. */
export function environmentName (name: string): string {
  return `SDREST_${name.toUpperCase().replaceAll('-', '_')}`
}
