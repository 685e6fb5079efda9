// What `npm install` runs; plain JavaScript, because it may come before anything was compiled. A package from the
// registry brings dist/ and builds its addon here. A clone has none yet: its `prepare` makes one and runs this again.
import { existsSync } from 'node:fs'

const build = new URL('../dist/native/build.js', import.meta.url)
if (existsSync(build)) {
  process.argv.push('--quiet')
  try {
    await import(build.href)
  } catch (error) {
    // Most of the server works without addons, so an installation never fails for one.
    console.log(`The addons were not built: ${error.message}`)
  }
}
