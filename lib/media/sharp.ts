import sharp from 'sharp'

/** sharp with the settings for all images; import this and not `sharp`. */

// The model needs the memory and the cores: one thread for each image, and no cache.
sharp.cache(false)
sharp.concurrency(1)
// No reader of another format may ever run on the bytes of a client.
sharp.block({ operation: ['VipsForeignLoad'] })
sharp.unblock({ operation: ['VipsForeignLoadPngBuffer', 'VipsForeignLoadJpegBuffer', 'VipsForeignLoadWebpBuffer'] })

export default sharp
