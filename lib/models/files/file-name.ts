import { unprintable } from '../../util/text.ts'
import { formatOfName } from '../headers/read-header.ts'
import { scanLimits } from '../scan/walk.ts'

/** Bytes; every file system takes that many, with the ending of an incomplete file. */
const longestName = 200
/** Characters with a meaning on some system. */
const unsafe = /[/\\<>:"|?*]/

/** The rule that the name of a new model file breaks; undefined for a valid one. */
export function checkFileName (name: string): string | undefined {
  const format = formatOfName(name)
  if (format !== 'safetensors' && format !== 'gguf') return 'a name that ends in .safetensors, .sft or .gguf'
  if (Buffer.byteLength(name) > longestName) return `a name of at most ${longestName} bytes`
  if (!isPlain(name)) return 'a name without control characters or any of / \\ < > : " | ? *, not beginning with a dot'
}

/** The rule that a folder below a models folder (`a/b`) breaks; undefined for a valid one. */
export function checkFolderName (folder: string): string | undefined {
  const parts = folder.split('/')
  if (folder.length > scanLimits.path / 2 || parts.length > scanLimits.depth - 2) {
    return `a path of at most ${scanLimits.path / 2} characters and ${scanLimits.depth - 2} folders`
  }
  // Such a path missed the expansion by a shell, and a folder of that name is hard to delete.
  if (parts[0]!.startsWith('~')) return 'a folder below the models folder, not one in a home folder'
  if (!parts.every(isPlain)) {
    return 'names of folders, separated by /, without the characters \\ < > : " | ? *, none beginning with a dot'
  }
}

function isPlain (name: string): boolean {
  return name !== '' && !name.startsWith('.') && !/[. ]$/.test(name) && name === name.trim() &&
    !unsafe.test(name) && name.search(unprintable) === -1 && !/\p{Surrogate}/u.test(name)
}
