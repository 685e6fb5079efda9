import type { LogLevel } from '../../protocol.ts'

const levels: LogLevel[] = ['error', 'warn', 'info', 'debug']
/** Errors and warnings that are kept, the oldest. */
const mostComplaints = 50
/** Of these, how many are told. */
const mostTold = 3

interface Complaint { level: LogLevel, text: string }

/**
 * What the addon says only in its log: the architecture and the device of a model, the devices of the machine, the
 * reasons of a failure, and what it left out without failing.
 */
export class PortableLog {
  readonly devices: Array<{ name: string, description: string }> = []
  #architecture: string | undefined
  #backends: string[] = []
  #complaints: Complaint[] = []
  #forward: ((level: LogLevel, text: string) => void) | undefined

  /** Before an operation whose traces are wanted; `forward` gets them line by line. */
  begin (forward: (level: LogLevel, text: string) => void): void {
    this.#forward = forward
    this.#architecture = undefined
    this.#backends = []
    this.#complaints = []
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
    const isComplaint = level === 'error' || level === 'warn'
    if (isComplaint && this.#complaints.length < mostComplaints) this.#complaints.push({ level, text })
    this.#forward?.(level, text)
  }

  get architecture (): string | undefined {
    return this.#architecture
  }

  /** Where the model was put: parts of it may be on the CPU beside the device that counts. */
  get backends (): string[] {
    return this.#backends
  }

  /** The first errors since `begin` with the warning that led to them, in one line; undefined when there were none. */
  get complaint (): string | undefined {
    const firstError = this.#complaints.findIndex(({ level }) => level === 'error')
    const told = this.#complaints.slice(Math.max(0, firstError - 1)).slice(0, mostTold)
    return told.length === 0 ? undefined : told.map(({ text }) => text).join('; ')
  }

  /** What the addon thought of a LoRA that it left out, wholly or in part, to go on without it. */
  get leftOutLora (): string | undefined {
    return this.#complaints.find(({ text }) =>
      /requested LoRAs failed validation/.test(text) || /^Only \(0 \/ \d+\) LoRA tensors/.test(text))?.text
  }

  #addDevice (name: string, description: string): void {
    if (!this.devices.some((device) => device.name === name)) this.devices.push({ name, description })
  }
}
