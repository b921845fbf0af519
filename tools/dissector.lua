-- Zeitgeist frames for Wireshark and tshark: tshark -X lua_script:docs/spec/zeitgeist.lua -r FILE -Y zeitgeist
-- It reads headers and the record's place, and never content. XXH3-64 is shown, not checked: `python -m
-- zeitgeist.capture` checks it. Frames in TLS need the session's keys: -o tls.keylog_file:FILE.

local magic, header_bytes, version = @MAGIC@, @HEADER_BYTES@, @VERSION@
local channels = @CHANNELS@
local content_channels = @CONTENT_CHANNELS@
local kinds = @KINDS@
local flags = @FLAGS@

local zeitgeist = Proto("zeitgeist", "Zeitgeist")
local field = {
    magic = ProtoField.string("zeitgeist.magic", "Magic"),
    version = ProtoField.uint16("zeitgeist.version", "Version"),
    channel = ProtoField.uint8("zeitgeist.channel", "Channel", base.DEC, channels),
    zero = ProtoField.uint8("zeitgeist.zero", "Zero"),
    kind = ProtoField.uint16("zeitgeist.kind", "Kind", base.HEX, kinds),
    flags = ProtoField.uint16("zeitgeist.flags", "Flags", base.HEX),
    length = ProtoField.uint32("zeitgeist.length", "Payload length"),
    stream = ProtoField.uint64("zeitgeist.stream", "Stream"),
    sequence = ProtoField.uint64("zeitgeist.sequence", "Sequence"),
    payload_check = ProtoField.uint64("zeitgeist.payload_check", "XXH3-64 of the payload", base.HEX),
    header_check = ProtoField.uint64("zeitgeist.header_check", "XXH3-64 of the header", base.HEX),
    record = ProtoField.bytes("zeitgeist.record", "Record"),
    content_length = ProtoField.uint32("zeitgeist.content_length", "Content length"),
}
for value, name in pairs(flags) do
    field["flag_" .. name] = ProtoField.bool("zeitgeist.flags." .. name, name, 16, nil, value)
end
zeitgeist.fields = field

local bad = {
    version = ProtoExpert.new("zeitgeist.bad_version", "Not our version", expert.group.PROTOCOL, expert.severity.WARN),
    record = ProtoExpert.new("zeitgeist.bad_record", "Record runs past the payload", expert.group.MALFORMED, expert.severity.ERROR),
}
zeitgeist.experts = bad

local function frame_length(buffer, _, offset)
    return header_bytes + buffer(offset + 12, 4):le_uint()
end

-- The payload: on channels that carry content the record's length comes first, then the record, then content.
local function add_payload(payload, channel, tree)
    local start, size = 0, payload:len()
    if content_channels[channel] then
        if size < 2 or payload(0, 2):le_uint() > size - 2 then
            tree:add_proto_expert_info(bad.record)
            return
        end
        start, size = 2, payload(0, 2):le_uint()
    end
    if size > 0 then
        tree:add(field.record, payload(start, size))
    end
    tree:add(field.content_length, payload:len() - start - size):set_generated()
end

local function dissect_frame(buffer, pinfo, root)
    local channel, kind = buffer(6, 1):uint(), buffer(8, 2):le_uint()
    local name = kinds[kind] or string.format("kind 0x%04x", kind)
    local tree = root:add(zeitgeist, buffer(), "Zeitgeist " .. (channels[channel] or channel) .. " " .. name)
    tree:add(field.magic, buffer(0, 4))
    local shown = tree:add_le(field.version, buffer(4, 2))
    if buffer(4, 2):le_uint() ~= version then
        shown:add_proto_expert_info(bad.version)
    end
    tree:add(field.channel, buffer(6, 1))
    tree:add(field.zero, buffer(7, 1))
    tree:add_le(field.kind, buffer(8, 2))
    local bits = tree:add_le(field.flags, buffer(10, 2))
    for _, flag in pairs(flags) do
        bits:add_le(field["flag_" .. flag], buffer(10, 2))
    end
    tree:add_le(field.length, buffer(12, 4))
    tree:add_le(field.stream, buffer(16, 8))
    tree:add_le(field.sequence, buffer(24, 8))
    tree:add_le(field.payload_check, buffer(32, 8))
    tree:add_le(field.header_check, buffer(40, 8))
    if buffer:len() > header_bytes then
        add_payload(buffer(header_bytes):tvb(), channel, tree)
    end
    pinfo.cols.info:append(" " .. name)
    return buffer:len()
end

local function dissect(buffer, pinfo, root)
    if buffer:len() >= 4 and buffer(0, 4):string() ~= magic then
        return 0
    end
    pinfo.cols.protocol = "ZGFR"
    pinfo.cols.info = ""
    dissect_tcp_pdus(buffer, root, header_bytes, frame_length, dissect_frame)
    return buffer:len()
end

zeitgeist.dissector = dissect

-- Not by way of the Proto: each call of a dissector takes away one leave to ask for more segments.
local function begins_a_frame(buffer, pinfo, root)
    if buffer:len() < 4 or buffer(0, 4):string() ~= magic then
        return false
    end
    pinfo.conversation = zeitgeist
    dissect(buffer, pinfo, root)
    return true
end

zeitgeist:register_heuristic("tcp", begins_a_frame)
zeitgeist:register_heuristic("tls", begins_a_frame)
