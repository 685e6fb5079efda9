/**
 * The part of Bare and of its packages that the portable host uses. Written here, because the packages are optional:
 * the project compiles without them.
 */
declare module 'bare-pipe' {
  export default class Pipe {
    constructor (descriptor: number)
    write (bytes: Uint8Array): boolean
    on (event: 'data', listener: (chunk: Uint8Array) => void): this
    on (event: 'close' | 'end' | 'error', listener: (error?: Error) => void): this
  }
}

declare module 'bare-fs' {
  export function statSync (path: string): { isFile (): boolean }
}

declare module 'bare-os' {
  export function pid (): number
  export function ppid (): number
  export function kill (pid: number, signal: string): void
}

declare module '@qvac/diffusion-cpp/package' {
  const description: { version: string }
  export default description
}

declare module '@qvac/diffusion-cpp/addonLogging' {
  const logging: {
    /** Messages arrive on a later turn of the event loop. Priority: 0 error, 1 warning, 2 information, 3 debugging. */
    setLogger (listener: (priority: number, message: string) => void): void
    releaseLogger (): void
  }
  export default logging
}

declare module '@qvac/diffusion-cpp' {
  interface Response {
    /** A string is JSON: `{step, total, elapsed_ms}`. Bytes are a PNG. */
    onUpdate (listener: (output: string | Uint8Array) => void): this
    await (): Promise<unknown>
  }

  type Config = Record<string, string | number | boolean | undefined>

  interface Model {
    /** Blocks the event loop until the weights are read. */
    load (): Promise<void>
    unload (): Promise<void>
    cancel (): Promise<void>
  }

  const addon: {
    ImgStableDiffusion: new (options: { files: Record<string, string | undefined>, config: Config }) => Model & {
      run (parameters: Record<string, unknown>): Promise<Response>
    }
    EsrganUpscaler: new (options: { files: { esrgan: string }, config: Config }) => Model & {
      upscale (image: Uint8Array, options: { repeats?: number }): Promise<Response>
    }
  }
  export default addon
}

declare const Bare: {
  argv: string[]
  Thread: {
    new (file: string, options: { data: unknown }): unknown
    /** Of the thread that asks. */
    self: { data: unknown }
  }
}
