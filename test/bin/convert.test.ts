import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { runProgram } from '../server-process.ts'

t.test('convert: what cannot be done is one line, and nothing is left behind', async t => {
  const folder = t.testdir({ 'in.safetensors': 'x', 'there.gguf': 'mine' })
  const [input, there, output] = ['in.safetensors', 'there.gguf', 'out.gguf'].map(name => join(folder, name))
  const type = ['--weight-type', 'q8_0', '--engine', 'portable']
  for (const [parameters, code, message] of [
    [[input, output, ...type], 5, /The portable engine lacks convert\. The native engine has it/],
    [[join(folder, 'nothing'), output, ...type], 4, /There is no file .*nothing/],
    [[input, there, ...type], 4, /there\.gguf exists; name another file/],
    [[input, join(folder, 'no', 'out.gguf'), ...type], 4, /There is no folder/],
    [[input, join(folder, 'out.ckpt'), ...type], 2, /ends in \.gguf or \.safetensors but received out\.ckpt/],
    [[input, output, '--engine', 'portable'], 2, /weight-type/],
    [[input, output, '--weight-type', 'q8_0', '--engin', 'portable'], 2, /did you mean --engine/]
  ] as Array<[string[], number, RegExp]>) {
    const { code: actual, stderr } = await runProgram(['convert', ...parameters])
    t.equal(actual, code, `${parameters.slice(1).join(' ')}: ${stderr}`)
    t.match(stderr, message)
    t.equal(stderr.trimEnd().split('\n').length, 1, 'one line')
  }
  t.notOk(existsSync(output!))
  t.equal(readFileSync(there!, 'utf8'), 'mine')
  t.equal(readdirSync(folder).length, 2)
})
