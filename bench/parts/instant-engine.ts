import { Socket } from 'node:net'
import { serveHost } from '../../lib/engine/hosts/host.ts'
import { encodePng } from '../../lib/media/png-encode.ts'

/** An engine that draws at once: what is measured with it is everything around the engine. */
const png = await encodePng({ width: 64, height: 64, channels: 3, data: new Uint8Array(64 * 64 * 3) })

serveHost({
  info: {
    engine: 'portable',
    version: 'instant',
    device: 'none',
    capabilities: ['txt2img'],
    samplers: ['euler'],
    schedulers: ['discrete'],
    weight_types: []
  },
  operations: {
    load: async () => ({ load_ms: 0 }),
    unload: async () => ({}),
    generate: async ({ seed }, _attachments, report) => {
      report.progress({ phase: 'sampling', step: 1, steps: 1, index: 0 })
      report.image({ index: 0, width: 64, height: 64, seed, png })
      return { generate_ms: 0 }
    }
  },
  cancel: () => {}
}, new Socket({ fd: 3 }), () => process.exit())
