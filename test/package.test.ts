import { execFile, execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, readlinkSync, renameSync, symlinkSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { promisify } from 'node:util'
import { satisfies } from 'semver'
import t from 'tap'
import { packageRoot } from '../lib/util/package-root.ts'
import { workspace } from './helper.ts'
import { startServer } from './server-process.ts'

const run = promisify(execFile)

/** What belongs into the package; nothing else may get there. */
const wanted = [
  /^package\.json$/, /^README\.md$/, /^LICENSE$/, /^SECURITY\.md$/, /^CMakeLists\.txt$/,
  /^docs\/[\w-]+\.md$/, /^deploy\/[\w.-]+$/,
  /^dist\/(app|errors)\.js$/, /^dist\/(bin|lib|plugins|routes|native)\/[\w/-]+\.js$/,
  /^native\/(README\.md|install\.js|[\w-]+\.ts)$/, /^native\/(auth|engine)\/(CMakeLists\.txt|[\w.]+\.(cc|h|h\.in))$/
]

t.test('the package holds what is needed and works where it is installed', async t => {
  const { folder, models, data } = workspace(t)
  const { stdout } = await run('npm', ['pack', '--json', '--ignore-scripts', '--pack-destination', folder], { cwd: packageRoot, maxBuffer: 2 ** 24 })
  const [{ filename, files }] = [Object.values(JSON.parse(stdout)).flat()[0]] as [
    { filename: string, files: Array<{ path: string }> }
  ]
  t.same(files.map(({ path }) => path).filter(path => !wanted.some(pattern => pattern.test(path))), [])

  // As `npm install -g --prefix` lays it out. npm itself would ask the registry for the dependencies, so they come from
  // here: those that the lock file does not call development ones.
  const installed = join(folder, 'prefix', 'lib', 'node_modules', 'stable-diffusion-rest')
  mkdirSync(installed, { recursive: true })
  execFileSync('tar', ['-xzf', join(folder, filename), '-C', installed, '--strip-components=1'])
  const lock = JSON.parse(readFileSync(join(packageRoot, 'package-lock.json'), 'utf8')).packages as Record<string, { dev?: boolean }>
  const isNested = (path: string) => path.includes('/node_modules/')
  for (const [path, { dev }] of Object.entries(lock)) {
    if (path === '' || dev === true || isNested(path) || !existsSync(join(packageRoot, path))) continue
    mkdirSync(dirname(join(installed, path)), { recursive: true })
    try {
      execFileSync('cp', ['-al', join(packageRoot, path), join(installed, path)], { stdio: 'ignore' })
    } catch {
      execFileSync('cp', ['-a', join(packageRoot, path), join(installed, path)]) // another file system
    }
  }
  for (const development of ['tap', 'tsx', 'typescript']) t.notOk(existsSync(join(installed, 'node_modules', development)))

  const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !/^(SDREST_|TAP|SD_CPP_DIR)/.test(name)))
  const { scripts, bin } = JSON.parse(readFileSync(join(installed, 'package.json'), 'utf8')) as { scripts: Record<string, string>, bin: Record<string, string> }
  t.equal(scripts.install, 'node native/install.js')
  await run(process.execPath, ['native/install.js'], { cwd: installed, env, timeout: 240_000 })
  const program = join(folder, 'prefix', 'bin', 'stable-diffusion-rest')
  mkdirSync(dirname(program))
  symlinkSync(join(installed, bin['stable-diffusion-rest']!), program)
  t.match(readFileSync(readlinkSync(program), 'utf8'), /^#!\/usr\/bin\/env node\n/)

  const doctor = await run(process.execPath, [program, 'doctor', '--models-dir', models, '--data-dir', data, '--port', '0', '--engine', 'portable'], { cwd: folder, env })
  t.match(doctor.stdout, /^ok {4}engine .*portable/m)
  if (process.env.CI === 'true') t.match(doctor.stdout, /^ok {4}system logins/m, 'the addon was built by its install script')
  const server = await startServer(t, ['--models-dir', models, '--data-dir', data], { program })
  const picture = join(folder, 'fox.png')
  await run(process.execPath, [program, 'generate', 'a red fox', '--width', '64', '--steps', '2', '-o', picture, '--server', server.url], { cwd: folder, env })
  t.equal(readFileSync(picture).subarray(1, 4).toString(), 'PNG')
  t.match(server.log.find(({ msg }) => msg === 'Job ended'), { status: 'completed' })
  t.match(await server.end(), { code: 0 })

  for (const [part, missing, reason] of [
    ['images', '@img', /^stable-diffusion-rest: The package sharp, .* is not installed for \S+\. Type `npm install --include=optional` in .*\.\n$/],
    ['database', '@photostructure/sqlite/prebuilds', /^stable-diffusion-rest: The package @photostructure\/sqlite, .* Type `npm install` in .*\.\n$/]
  ] as const) {
    const there = join(installed, 'node_modules', missing)
    renameSync(there, `${there}.away`)
    const again = ['--models-dir', models, '--data-dir', data, '--port', '0', '--engine', 'portable']
    const diagnosis = await run(process.execPath, [program, 'doctor', ...again], { cwd: folder, env }).catch(error => error)
    t.equal(diagnosis.code, 1, part)
    t.match(diagnosis.stdout, new RegExp(`^FAIL +${part} +The package .* is not installed for`, 'm'))
    // 4 is one of those that RestartPreventExitStatus of the systemd unit names.
    await t.rejects(run(process.execPath, [program, ...again], { cwd: folder, env }), {
      code: 4,
      stderr: reason
    } as unknown as Error)
    renameSync(`${there}.away`, there)
  }
})

t.test('every dependency declares the oldest Node.js that the package declares', async t => {
  const { packages } = JSON.parse(readFileSync(join(packageRoot, 'package-lock.json'), 'utf8')) as {
    packages: Record<string, { version: string, engines?: { node?: string }, hasInstallScript?: boolean }>
  }
  const { engines, allowScripts } = JSON.parse(readFileSync(join(packageRoot, 'package.json'), 'utf8')) as {
    engines: { node: string }, allowScripts: Record<string, boolean>
  }
  const oldest = engines.node.replace('>=', '')
  t.ok(satisfies(oldest, engines.node))
  const declared = Object.entries(packages).filter(([, { engines }]) => engines?.node !== undefined)
  t.ok(declared.length > 100)
  t.same(declared
    .filter(([, { engines }]) => !satisfies(oldest, engines!.node!))
    .map(([path, { engines }]) => [path, engines!.node]), [])
  const withScript = Object.entries(packages).filter(([path, { hasInstallScript }]) => path !== '' && hasInstallScript === true)
  t.same([...new Set(withScript.map(([path]) => path.split('node_modules/').at(-1)))].sort(), Object.keys(allowScripts).sort(), 'npm 11 names every other one at each install')
})
