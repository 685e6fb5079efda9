/**
 * Preloaded into every test file. tap would load its module hooks into every process that a test starts, and so into
 * every server and engine, which doubles the time of their start. The hooks only serve coverage, which is off.
 */
import processOnSpawn from 'process-on-spawn'

processOnSpawn.removeAllListeners()
delete process.env.NODE_OPTIONS

// `npm test` runs compiled files; a file of sources gets its types stripped.
if (process.argv[1]?.endsWith('.ts')) await import('tsx')
