import t from 'tap'
import { EngineError } from '../../../lib/engine/engine.ts'
import { toJobError } from '../../../lib/jobs/job-error.ts'
import { NetworkError } from '../../../lib/network/network-error.ts'

const words = (text: string) => toJobError(new EngineError('generation_failed', text)).message

t.test('errors of jobs name files without their folders', async t => {
  t.equal(words('cannot load /srv/models/sd/v1.safetensors'), 'cannot load v1.safetensors')
  t.equal(words('"/srv/models/a.gguf": short read'), '"a.gguf": short read')
  t.equal(words('at /home/build/ggml/src/ggml.c:1234: GGML_ASSERT(a / b > 0) failed'), 'at ggml.c:1234: GGML_ASSERT(a / b > 0) failed')
  t.equal(words('error:/var/lib/x/y'), 'error:y')
  t.equal(words('C:\\Models\\sd\\v1.gguf'), 'v1.gguf')
  t.equal(words('tensor model/diffusion/in.0 is missing, 3/4 of it'), 'tensor model/diffusion/in.0 is missing, 3/4 of it')
  const message = 'https://hub.example/owner/model/file.gguf answered 404'
  t.same(toJobError(new NetworkError(message)), { code: 'download_failed', message })
})

t.test('a text made to be slow is not', async t => {
  const start = performance.now()
  for (const part of ['/', '/a', '/a ', 'a/', ' /', '//a', 'C:\\', 'c:\\a']) words(part.repeat(50_000))
  t.ok(performance.now() - start < 2000)
})

t.test('anything that is not meant for clients is internal', async t => {
  t.match(toJobError(new Error('SQLITE_FULL: /var/lib/jobs.db')), { code: 'internal', message: /its log says why/ })
  t.match(toJobError(undefined), { code: 'internal' })
})
