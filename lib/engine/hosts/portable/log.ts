import type { LogLevel } from '../../protocol.ts'
import { LoraReport } from '../lora-report.ts'

const levels: LogLevel[] = ['error', 'warn', 'info', 'debug']
/** The first errors and warnings of an operation that are kept. */
const mostWarnings = 50
/** Of these, in a reason. */
const mostShown = 3

interface Warning { level: LogLevel, text: string }

/**
 * What only the log of the addon says: the architecture and the device of a model, the devices of the machine, the
 * reasons of a failure, and inputs that it skipped.
 */
export class PortableLog {
  readonly devices: Array<{ name: string, description: string }> = []
  #architecture: string | undefined
  #backends: string[] = []
  #warnings: Warning[] = []
  #refusedLoras: string | undefined
  readonly #loras = new LoraReport()
  #forward: ((level: LogLevel, text: string) => void) | undefined

  /** Call it before an operation; `forward` gets its log. */
  begin (forward: (level: LogLevel, text: string) => void): void {
    this.#forward = forward
    this.#architecture = undefined
    this.#backends = []
    this.#warnings = []
    this.#refusedLoras = undefined
    this.#loras.begin()
  }

  /** @param priority 0 error, 1 warning, 2 information, 3 debugging. */
  add (priority: number, message: string): void {
    const level = levels[priority] ?? 'debug'
    // Without the place in the sources.
    const text = message.trim().replace(/^[\w.-]+:\d+\s+- /, '')
    this.#architecture = /^Version: (.+)$/.exec(text)?.[1] ?? this.#architecture
    const backend = /^Initializing backend: (.+)$/.exec(text)?.[1]
    if (backend !== undefined) this.#backends.push(backend)
    const device = /^GGML backend device\[\d+\]: name='([^']*)', desc='([^']*)'/.exec(text)
    if (device !== null) this.#addDevice(device[1]!, device[2]!)
    // Apart from the warnings, of which there is one for each tensor before these.
    this.#loras.add(text)
    if (/requested LoRAs failed validation/.test(text)) this.#refusedLoras ??= text
    const isWarning = level === 'error' || level === 'warn'
    if (isWarning && this.#warnings.length < mostWarnings) this.#warnings.push({ level, text })
    this.#forward?.(level, text)
  }

  get architecture (): string | undefined {
    return this.#architecture
  }

  /** The devices of the model: a part of it may be on the CPU. */
  get backends (): string[] {
    return this.#backends
  }

  /** The first errors since `begin`, with the warning before them, in one line; undefined without any. */
  get failureReason (): string | undefined {
    const firstError = this.#warnings.findIndex(({ level }) => level === 'error')
    const shown = this.#warnings.slice(Math.max(0, firstError - 1)).slice(0, mostShown)
    return shown.length === 0 ? undefined : shown.map(({ text }) => text).join('; ')
  }

  /** Why a LoRA had no effect; undefined when each had one. */
  get skippedLora (): string | undefined {
    if (this.#refusedLoras === undefined) return this.#loras.failure
    return `The LoRA does not fit the model: ${this.#refusedLoras}`
  }

  /** Sentences about LoRAs that had an effect only in part. */
  get notices (): string[] {
    return this.#loras.notices
  }

  #addDevice (name: string, description: string): void {
    if (!this.devices.some((device) => device.name === name)) this.devices.push({ name, description })
  }
}
