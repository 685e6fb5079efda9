// bare-runtime has a package for each platform. Where those of other platforms cannot be had, npm leaves them out of
// the lock file, and `npm ci` refuses it elsewhere. Run this after `npm install`: it writes them in again.
import { readFileSync, writeFileSync } from 'node:fs'

const file = new URL('../package-lock.json', import.meta.url)
const lock = JSON.parse(readFileSync(file, 'utf8'))
const { version, license, optionalDependencies } = lock.packages['node_modules/bare-runtime']
for (const name of Object.keys(optionalDependencies)) {
  const [, os, cpu] = /^bare-runtime-([a-z0-9]+)-([a-z0-9]+)/.exec(name)
  lock.packages[`node_modules/${name}`] ??= { version, cpu: [cpu], license, optional: true, os: [os] }
}
lock.packages = Object.fromEntries(Object.entries(lock.packages).sort(([a], [b]) => a < b ? -1 : 1))
writeFileSync(file, `${JSON.stringify(lock, null, 2)}\n`)
