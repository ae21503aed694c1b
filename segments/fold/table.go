package fold

// A table is a part of the fold's state that is kept in checkpoints entry by
// entry: put and remove mark what changed, and a checkpoint takes only that.
type table[K comparable, V any] struct {
	id    byte // first byte of its keys in a run; part of the format
	m     map[K]V
	dirty map[K]struct{}
	codec codec[K, V]
}

// codec is how a table's keys and values look in a run. Keys sort as bytes.
type codec[K comparable, V any] struct {
	key   func(b []byte, k K) []byte
	unkey func(b []byte) (K, error)
	val   func(b []byte, v V) []byte
	unval func(b []byte) (V, error)
}

func newTable[K comparable, V any](id byte, c codec[K, V]) *table[K, V] {
	return &table[K, V]{id: id, m: map[K]V{}, dirty: map[K]struct{}{}, codec: c}
}

func (t *table[K, V]) get(k K) (V, bool) { v, ok := t.m[k]; return v, ok }

func (t *table[K, V]) put(k K, v V) {
	t.m[k] = v
	t.dirty[k] = struct{}{}
}

func (t *table[K, V]) remove(k K) {
	if _, ok := t.m[k]; ok {
		delete(t.m, k)
		t.dirty[k] = struct{}{}
	}
}

// drain adds what changed since the last drain to a run.
func (t *table[K, V]) drain(r *runBuilder) {
	for k := range t.dirty {
		key := t.codec.key([]byte{t.id}, k)
		if v, ok := t.m[k]; ok {
			r.put(key, t.codec.val(nil, v))
		} else {
			r.remove(key)
		}
	}
	clear(t.dirty)
}

// load takes an entry of a run, without the table's first byte.
func (t *table[K, V]) load(key, val []byte) error {
	k, err := t.codec.unkey(key)
	if err != nil {
		return err
	}
	v, err := t.codec.unval(val)
	if err != nil {
		return err
	}
	t.m[k] = v
	return nil
}

func (t *table[K, V]) first() byte { return t.id }

// anyTable is a table whatever its types.
type anyTable interface {
	first() byte
	drain(*runBuilder)
	load(key, val []byte) error
	unload(key []byte) error
	each(fn func(key, val []byte))
}

// each calls fn with every entry, in no order, the key without the table's first
// byte.
func (t *table[K, V]) each(fn func(key, val []byte)) {
	for k, v := range t.m {
		fn(t.codec.key(nil, k), t.codec.val(nil, v))
	}
}

// unload takes a removed entry of a run, without the table's first byte.
func (t *table[K, V]) unload(key []byte) error {
	k, err := t.codec.unkey(key)
	if err == nil {
		delete(t.m, k)
	}
	return err
}
