/** RIFF, the container of WebP images. */

/** Bytes before the first chunk. */
export const riffHeaderLength = 12

export function webpFile (chunks: Array<[type: string, data: Uint8Array]>): Buffer {
  const header = Buffer.from('RIFF\0\0\0\0WEBP', 'latin1')
  const file = Buffer.concat([header, ...chunks.flatMap(([type, data]) => riffChunk(type, data))])
  file.writeUInt32LE(file.length - 8, 4)
  return file
}

function riffChunk (type: string, data: Uint8Array): Uint8Array[] {
  const header = Buffer.from(`${type}\0\0\0\0`, 'latin1')
  header.writeUInt32LE(data.length, 4)
  return [header, data, Buffer.alloc(data.length % 2)]
}
