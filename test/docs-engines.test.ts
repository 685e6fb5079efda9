import t from 'tap'
import { runPage } from './docs-commands.ts'

t.test('the commands of docs/engines.md', async t => {
  // test/native/build.test.ts builds the addon; here only the words are checked.
  await runPage(t, 'docs/engines.md', {
    replace: { 'stable-diffusion-rest doctor': 'stable-diffusion-rest doctor --port 0' }, // 8080 may be somebody's
    programs: { npm: '[ "$SD_CPP_DIR $*" = "/opt/stable-diffusion run build:native" ]' }
  })
})
