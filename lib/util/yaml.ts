import { createRequire } from 'node:module'
import type * as Yaml from 'yaml'

const require = createRequire(import.meta.url)

/** The YAML library, which is loaded when the first file is read or written: most starts need none. */
export const yaml = (): typeof Yaml => require('yaml') as typeof Yaml
