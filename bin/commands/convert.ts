import { existsSync } from 'node:fs'
import { rename, rm, stat } from 'node:fs/promises'
import { basename, dirname, extname, join, resolve } from 'node:path'
import type { CommandModule } from 'yargs'
import { CommandError, exitCodes } from '../../errors.ts'
import type { EngineInfo } from '../../lib/engine/engine.ts'
import { EngineProcess } from '../../lib/engine/process.ts'
import { selectEngine } from '../../lib/engine/select.ts'
import { ProgressBar } from '../../lib/progress-bar.ts'
import { optionsOf, withOptions } from '../command-options.ts'

/** Milliseconds of silence after which the engine counts as hung: it tells of each tensor, and the largest take minutes. */
const longestSilence = 3_600_000

interface Conversion {
  input: string
  output: string
  weight_type: string
}

/** `convert`: writes a model with weights of another type, with the engine of the server. */
export const convert: CommandModule = {
  command: 'convert <input> <output>',
  describe: 'Write a model with weights of another type (quantize)',
  builder: yargs => withOptions(yargs, ['engine'])
    .positional('input', { type: 'string', describe: 'Model file' })
    .positional('output', { type: 'string', describe: 'File to write: .gguf or .safetensors' })
    .option('weight-type', { type: 'string', requiresArg: true, demandOption: true, describe: 'For example f16, q8_0 or q4_K' }),
  handler: async argv => {
    const conversion = {
      input: resolve(String(argv.input)), output: resolve(String(argv.output)), weight_type: String(argv['weight-type'])
    }
    checkFiles(conversion)
    const { engine: wanted } = optionsOf(argv, ['input', 'output', 'weight-type'])
    const engine = new EngineProcess(await selectEngine({ engine: wanted }), { silenceTimeout: longestSilence })
    try {
      checkEngine(await engine.start(), conversion)
      await convertWith(engine, conversion)
    } finally {
      await engine.stop()
    }
    process.stdout.write(`Wrote ${conversion.output} (${((await stat(conversion.output)).size / 1e6).toFixed(1)} MB).\n`)
  }
}

function checkFiles ({ input, output }: Conversion): void {
  if (!existsSync(input)) throw new CommandError(exitCodes.storage, `There is no file ${input}.`)
  if (existsSync(output)) throw new CommandError(exitCodes.storage, `${output} exists; name another file, or remove it first.`)
  if (!existsSync(dirname(output))) throw new CommandError(exitCodes.storage, `There is no folder ${dirname(output)}.`)
  const ending = extname(output)
  if (ending !== '.gguf' && ending !== '.safetensors') {
    throw new CommandError(exitCodes.usage, `Expected a file name that ends in .gguf or .safetensors but received ${basename(output)}.`)
  }
}

function checkEngine ({ engine, capabilities, weight_types: types }: EngineInfo, { weight_type: type }: Conversion): void {
  if (!capabilities.includes('convert')) {
    throw new CommandError(exitCodes.engine,
      `The ${engine} engine lacks convert. The native engine has it; \`stable-diffusion-rest doctor\` tells of it.`)
  }
  if (!types.includes(type)) {
    throw new CommandError(exitCodes.usage, `Expected one of ${types.join(', ')} for --weight-type but received "${type}".`)
  }
}

/** The file has its name when it is whole; until then a hidden one, which no scan of models lists. */
async function convertWith (engine: EngineProcess, { output, ...conversion }: Conversion): Promise<void> {
  const unfinished = join(dirname(output), `.${process.pid}-${basename(output)}`)
  const interruption = new AbortController()
  const interrupt = (): void => interruption.abort()
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, interrupt)
  const bar = new ProgressBar()
  try {
    await engine.run('convert', { ...conversion, output: unfinished }, {
      signal: interruption.signal,
      progress: ({ step, steps }) => bar.update(`Converting ${step} of ${steps} tensors`, steps === 0 ? 0 : step / steps)
    })
    await rename(unfinished, output)
  } catch (error) {
    throw new CommandError(exitCodes.failure, `The model was not converted: ${(error as Error).message}`, { cause: error })
  } finally {
    bar.clear()
    await rm(unfinished, { force: true })
    for (const signal of ['SIGINT', 'SIGTERM'] as const) process.off(signal, interrupt)
  }
}
