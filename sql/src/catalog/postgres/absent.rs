//! System tables of what Aquifer does not have: inheritance, policies, sequences, triggers and so on. Clients ask
//! whether there are any; that these are empty is the whole truth.

pub(crate) const PG_ATTRDEF: &str = "oid oid, adrelid oid, adnum int2, adbin pg_node_tree";
pub(crate) const PG_INHERITS: &str = "inhrelid oid, inhparent oid, inhseqno int4, inhdetachpending bool";
pub(crate) const PG_POLICY: &str = "oid oid, polname name, polrelid oid, polcmd char, polpermissive bool, \
    polroles oid[], polqual pg_node_tree, polwithcheck pg_node_tree";
pub(crate) const PG_EXTENSION: &str = "oid oid, extname name, extowner oid, extnamespace oid, extrelocatable bool, \
    extversion text, extconfig oid[], extcondition text[]";
pub(crate) const PG_ENUM: &str = "oid oid, enumtypid oid, enumsortorder float4, enumlabel name";
pub(crate) const PG_RANGE: &str = "rngtypid oid, rngsubtype oid, rngmultitypid oid, rngcollation oid, rngsubopc oid, \
    rngcanonical regproc, rngsubdiff regproc";
pub(crate) const PG_AUTH_MEMBERS: &str = "roleid oid, member oid, grantor oid, admin_option bool";
pub(crate) const PG_SEQUENCE: &str = "seqrelid oid, seqtypid oid, seqstart int8, seqincrement int8, seqmax int8, \
    seqmin int8, seqcache int8, seqcycle bool";
pub(crate) const PG_DEPEND: &str = "classid oid, objid oid, objsubid int4, refclassid oid, refobjid oid, \
    refobjsubid int4, deptype char";
pub(crate) const PG_TRIGGER: &str = "oid oid, tgrelid oid, tgparentid oid, tgname name, tgfoid oid, tgtype int2, \
    tgenabled char, tgisinternal bool, tgconstrrelid oid, tgconstrindid oid, tgconstraint oid, tgdeferrable bool, \
    tginitdeferred bool, tgnargs int2, tgattr int2vector, tgargs text, tgqual pg_node_tree, tgoldtable name, \
    tgnewtable name";
pub(crate) const PG_EVENT_TRIGGER: &str =
    "oid oid, evtname name, evtevent name, evtowner oid, evtfoid oid, evtenabled char, evttags text[]";
pub(crate) const PG_REWRITE: &str = "oid oid, rulename name, ev_class oid, ev_type char, ev_enabled char, \
    is_instead bool, ev_qual pg_node_tree, ev_action pg_node_tree";
pub(crate) const PG_PUBLICATION: &str = "oid oid, pubname name, pubowner oid, puballtables bool, pubinsert bool, \
    pubupdate bool, pubdelete bool, pubtruncate bool, pubviaroot bool";
pub(crate) const PG_PUBLICATION_REL: &str =
    "oid oid, prpubid oid, prrelid oid, prqual pg_node_tree, prattrs int2vector";
pub(crate) const PG_PUBLICATION_NAMESPACE: &str = "oid oid, pnpubid oid, pnnspid oid";
pub(crate) const PG_SUBSCRIPTION: &str = "oid oid, subdbid oid, subskiplsn text, subname name, subowner oid, \
    subenabled bool, subbinary bool, substream bool, subtwophasestate char, subdisableonerr bool, subconninfo text, \
    subslotname name, subsynccommit text, subpublications text[]";
pub(crate) const PG_STATISTIC_EXT: &str = "oid oid, stxrelid oid, stxname name, stxnamespace oid, stxowner oid, \
    stxstattarget int4, stxkeys int2vector, stxkind text[], stxexprs pg_node_tree";
pub(crate) const PG_FOREIGN_TABLE: &str = "ftrelid oid, ftserver oid, ftoptions text[]";
pub(crate) const PG_FOREIGN_SERVER: &str = "oid oid, srvname name, srvowner oid, srvfdw oid, srvtype text, \
    srvversion text, srvacl aclitem[], srvoptions text[]";
pub(crate) const PG_FOREIGN_DATA_WRAPPER: &str = "oid oid, fdwname name, fdwowner oid, fdwhandler oid, \
    fdwvalidator oid, fdwacl aclitem[], fdwoptions text[]";
pub(crate) const PG_OPCLASS: &str = "oid oid, opcmethod oid, opcname name, opcnamespace oid, opcowner oid, \
    opcfamily oid, opcintype oid, opcdefault bool, opckeytype oid";
pub(crate) const PG_SHDESCRIPTION: &str = "objoid oid, classoid oid, description text";
pub(crate) const PG_DEFAULT_ACL: &str =
    "oid oid, defaclrole oid, defaclnamespace oid, defaclobjtype char, defaclacl aclitem[]";
pub(crate) const PG_DB_ROLE_SETTING: &str = "setdatabase oid, setrole oid, setconfig text[]";
pub(crate) const PG_AGGREGATE: &str = "aggfnoid regproc, aggkind char, aggnumdirectargs int2";
pub(crate) const PG_SEQUENCES: &str = "schemaname name, sequencename name, sequenceowner name, data_type regtype, \
    start_value int8, min_value int8, max_value int8, increment_by int8, cycle bool, cache_size int8, last_value int8";
pub(crate) const PG_POLICIES: &str = "schemaname name, tablename name, policyname name, permissive text, \
    roles name[], cmd text, qual text, with_check text";
pub(crate) const PG_STATS: &str = "schemaname name, tablename name, attname name, inherited bool, null_frac float4, \
    avg_width int4, n_distinct float4, correlation float4";
pub(crate) const PG_STAT_USER_TABLES: &str = "relid oid, schemaname name, relname name, seq_scan int8, \
    seq_tup_read int8, idx_scan int8, idx_tup_fetch int8, n_tup_ins int8, n_tup_upd int8, n_tup_del int8, \
    n_live_tup int8, n_dead_tup int8, last_vacuum timestamptz, last_autovacuum timestamptz, \
    last_analyze timestamptz, last_autoanalyze timestamptz";
pub(crate) const PG_STAT_USER_INDEXES: &str = "relid oid, indexrelid oid, schemaname name, relname name, \
    indexrelname name, idx_scan int8, idx_tup_read int8, idx_tup_fetch int8";
pub(crate) const PG_STATIO_ALL_TABLES: &str = "relid oid, schemaname name, relname name, heap_blks_read int8, \
    heap_blks_hit int8, idx_blks_read int8, idx_blks_hit int8";
pub(crate) const PG_LOCKS: &str = "locktype text, database oid, relation oid, pid int4, mode text, granted bool";
pub(crate) const PG_CURSORS: &str = "name text, statement text, is_holdable bool, is_binary bool, \
    is_scrollable bool, creation_time timestamptz";
pub(crate) const PG_PREPARED_XACTS: &str = "transaction oid, gid text, prepared timestamptz, owner name, database name";
pub(crate) const PG_AVAILABLE_EXTENSIONS: &str =
    "name name, default_version text, installed_version text, comment text";
