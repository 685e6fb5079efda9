import t from 'tap'
import { ModelAliases } from '../../../lib/compat/model-aliases.ts'
import { exitCodes } from '../../../errors.ts'

t.test('a name stands for its model, and * for names without one', async t => {
  const aliases = new ModelAliases(['gpt-image-1=checkpoint/a.safetensors', ' dall-e-3 = b=c ', '*=rest'])
  const isModel = (name: string) => name === 'mine' || name === 'gpt-image-1'
  t.equal(aliases.modelFor('gpt-image-1', isModel), 'checkpoint/a.safetensors', 'an alias goes before a model')
  t.equal(aliases.modelFor('dall-e-3', isModel), 'b=c')
  t.equal(aliases.modelFor('mine', isModel), 'mine')
  t.equal(aliases.modelFor('other', isModel), 'rest')
  t.equal(aliases.modelFor('*', isModel), 'rest')
  t.same(aliases.all, [{ name: 'gpt-image-1', model: 'checkpoint/a.safetensors' }, { name: 'dall-e-3', model: 'b=c' }])
  t.same(aliases.targets, ['checkpoint/a.safetensors', 'b=c', 'rest'])
  t.equal(new ModelAliases([]).modelFor('other', isModel), 'other')
})

t.test('refuses entries that are not NAME=MODEL', async t => {
  for (const entry of ['x', '=x', 'x=', ' = ', `${'x'.repeat(129)}=y`]) {
    t.throws(() => new ModelAliases([entry]), { exitCode: exitCodes.usage, message: /^Expected NAME=MODEL .* for --model-alias but received/ }, entry.slice(0, 20))
  }
  t.throws(() => new ModelAliases(['a=b', 'a=c']), { message: 'Expected one model for the name "a" of --model-alias but received "b" and "c"' })
  t.doesNotThrow(() => new ModelAliases(['a=b', 'a=b']))
})
