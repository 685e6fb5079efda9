import { realpath } from 'node:fs/promises'
import { apiError } from '../../../errors.ts'
import { withFile } from '../headers/source.ts'
import type { Model } from '../model.ts'
import { isInside } from '../roots.ts'

/**
 * Checks a file of a model again: since the scan it may have been replaced by a link to anywhere.
 * @throws an API error SDR_UNSUPPORTED_MODEL.
 */
export async function checkedPath (
  { id }: Model, path: string, roots: ReadonlyArray<string | null>
): Promise<string> {
  const real = await realpath(path).catch((cause: unknown) => {
    const { code } = cause as NodeJS.ErrnoException
    throw apiError('SDR_UNSUPPORTED_MODEL', `A file of ${id} is gone (${code}). Refresh the models.`, { cause })
  })
  if (real !== path || !isInside(real, roots)) {
    throw apiError('SDR_UNSUPPORTED_MODEL',
      `A file of ${id} is now a link to another place, which is refused. Refresh the models.`)
  }
  await withFile(real, async () => {}).catch((cause: unknown) => {
    const { code, message } = cause as NodeJS.ErrnoException
    throw apiError('SDR_UNSUPPORTED_MODEL',
      `A file of ${id} can't be read (${code ?? message}). Refresh the models.`, { cause })
  })
  return real
}
