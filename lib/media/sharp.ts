import sharp from 'sharp'

/** sharp as every image of the server process is handled with it; import this and not `sharp`. */

// Beside a model that wants the memory and the cores: one thread for one image, and nothing kept of it.
sharp.cache(false)
sharp.concurrency(1)
// Whatever a caller sends, no reader of any other format ever sees it.
sharp.block({ operation: ['VipsForeignLoad'] })
sharp.unblock({ operation: ['VipsForeignLoadPngBuffer', 'VipsForeignLoadJpegBuffer', 'VipsForeignLoadWebpBuffer'] })

export default sharp
