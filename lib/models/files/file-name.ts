import { unprintable } from '../../util/text.ts'
import { formatOfName } from '../headers/read-header.ts'
import { scanLimits } from '../scan/walk.ts'

/** Bytes; every file system takes that many, with an ending for what is half done. */
const longestName = 200
/** What some system does not allow, or takes for something else. */
const unsafe = /[/\\<>:"|?*]/

/** What is wrong with the name of a new model file; undefined when nothing is. */
export function checkFileName (name: string): string | undefined {
  const format = formatOfName(name)
  if (format !== 'safetensors' && format !== 'gguf') return 'a name that ends in .safetensors, .sft or .gguf'
  if (Buffer.byteLength(name) > longestName) return `a name of at most ${longestName} bytes`
  if (!isPlain(name)) return 'a name without control characters or any of / \\ < > : " | ? *, not beginning with a dot'
}

/** What is wrong with a folder below a models folder, its parts separated by `/`; undefined when nothing is. */
export function checkFolderName (folder: string): string | undefined {
  const parts = folder.split('/')
  if (folder.length > scanLimits.path / 2 || parts.length > scanLimits.depth - 2) {
    return `a path of at most ${scanLimits.path / 2} characters and ${scanLimits.depth - 2} folders`
  }
  // That of a home folder, which a shell has not seen: a folder of that name is hard to get rid of.
  if (parts[0]!.startsWith('~')) return 'a folder below the models folder, not one in a home folder'
  if (!parts.every(isPlain)) {
    return 'names of folders, separated by /, without the characters \\ < > : " | ? *, none beginning with a dot'
  }
}

function isPlain (name: string): boolean {
  return name !== '' && !name.startsWith('.') && !/[. ]$/.test(name) && name === name.trim() &&
    !unsafe.test(name) && name.search(unprintable) === -1 && !/\p{Surrogate}/u.test(name)
}
